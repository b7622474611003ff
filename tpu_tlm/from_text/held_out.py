"""Sentences of the documents that preprocessing held out, each with one word masked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tpu_tlm.config import CorpusConfig, PreprocessConfig
from tpu_tlm.data.corpus.documents import read_part
from tpu_tlm.data.corpus.inputs import expand_inputs
from tpu_tlm.data.preprocessing.preprocess import parts_of
from tpu_tlm.data.preprocessing.worker import SplitChooser
from tpu_tlm.data.tokenizers.base import Tokenizer

# The end of a sentence: its mark and white space, or a mark of Chinese and Japanese.
_END = re.compile(r"(?<=[.!?…।؟۔])[\"'»”)]*\s+|(?<=[。！？])[”」』]*\s*|\n")
_WORD = re.compile(r"[^\W\d_]+")
# Pieces of a sentence that is shown.
_SHORTEST, _LONGEST = 8, 40
# Sentences that are looked at before some are chosen.
_LOOKED_AT = 4000


@dataclass(frozen=True)
class MaskedSentence:
    """A sentence with the mask token in place of `word`."""

    text: str
    word: str


def held_out_documents(corpus: CorpusConfig, config: PreprocessConfig) -> Iterator[str]:
    """The texts of the valid split, in the order of the corpus, as `preprocess` chose them."""
    for part in parts_of(expand_inputs(corpus)):
        choose = SplitChooser(config.seed, config.valid_fraction, part.index, [False, True])
        for block in read_part(
            part, corpus.json_field, document=corpus.document, text_column=corpus.text_column
        ):
            if choose(block.first):
                yield "\n".join(line.decode("utf-8", "replace") for line in block.lines)


def masked_sentences(
    documents: Iterator[str], tokenizer: Tokenizer, count: int, longest: int, seed: int = 0
) -> list[MaskedSentence]:
    """At most `count` sentences from different documents where possible, chosen by the seed.

    A word is masked that is one piece of the vocabulary; words of several letters are preferred
    where the script has them. longest: most pieces of a sentence, with those around it.
    """
    rng = np.random.default_rng(seed)
    # By document, so that one long document does not give them all.
    found: list[list[MaskedSentence]] = []
    looked = 0
    for document in documents:
        usable = []
        for sentence in _END.split(document):
            looked += 1
            masked = _masked(" ".join(sentence.split()), tokenizer, longest, rng)
            if masked is not None:
                usable.append(masked)
        if usable:
            found.append(usable)
        if looked >= _LOOKED_AT:
            break
    rng.shuffle(found)  # type: ignore[arg-type]
    for usable in found:
        rng.shuffle(usable)  # type: ignore[arg-type]
    chosen: list[MaskedSentence] = []
    while len(chosen) < count and any(found):
        for usable in found:
            if usable and len(chosen) < count:
                chosen.append(usable.pop())
    return chosen


def _masked(
    sentence: str, tokenizer: Tokenizer, longest: int, rng: np.random.Generator
) -> MaskedSentence | None:
    if not 10 <= len(sentence) <= 400:
        return None
    ids = tokenizer.encode(sentence)
    if not _SHORTEST <= len(ids) <= min(_LONGEST, longest) or tokenizer.unk_id in ids:
        return None
    mask = tokenizer.tokens[tokenizer.mask_id]
    candidates = []
    for begin, end in _words(sentence):
        word = sentence[begin:end]
        masked = f"{sentence[:begin]}{mask}{sentence[end:]}"
        inside = tokenizer.encode(masked)
        # One piece is replaced, and nothing else of the sentence changes.
        if begin == 0 or len(inside) != len(ids) or tokenizer.mask_id not in inside:
            continue
        place = inside.index(tokenizer.mask_id)
        if inside[:place] == ids[:place] and inside[place + 1 :] == ids[place + 1 :]:
            candidates.append(MaskedSentence(masked, word))
    long = [one for one in candidates if len(one.word) > 3]
    chosen = long or candidates
    return chosen[int(rng.integers(len(chosen)))] if chosen else None


def _words(sentence: str) -> list[tuple[int, int]]:
    """Begin and end of every word; of text without spaces, of every character."""
    spans = [match.span() for match in _WORD.finditer(sentence)]
    if any(end - begin > 30 for begin, end in spans) or _ideographs(sentence):
        return [(i, i + 1) for i, letter in enumerate(sentence) if letter.isalpha()]
    return spans


def _ideographs(sentence: str) -> bool:
    return any("\u3040" <= letter <= "\u9fff" for letter in sentence)
