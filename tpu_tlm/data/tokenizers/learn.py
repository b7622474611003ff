"""Vocabulary learning from word counts, by the trainers of the `tokenizers` library."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tpu_tlm.config import TokenizerConfig
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.bpe import BPE_WORDS, LARGEST_COUNT, BpeTokenizer
from tpu_tlm.data.tokenizers.bpe_backends import END, parse_codes, tokenizers_engine, written
from tpu_tlm.data.tokenizers.wordpiece import LONGEST_WORD, SPECIALS, WordPieceTokenizer
from tpu_tlm.errors import UsageError

# The library counts words one by one: larger corpora are scaled down to about this many, which no merge of weight notices.
LARGEST_FEED = 20_000_000
# Merges are learned from the most frequent words: a million cost 1 GB, and the rare ones weigh little. Counts are of all words.
MOST_LEARNED = 500_000
LONGEST_LEARNED = 1000
_FEED_WORDS = 5000
# fastBPE's own mark, and the character at which it stops reading a word.
_UNFIT = re.compile(re.escape(END) + "|\0")


@dataclass(frozen=True)
class Learned:
    """A learned vocabulary: the files' contents, and how it splits the words it was learned from."""

    tokenizer: Tokenizer
    pieces: int
    whole: int
    unknown: int
    notes: list[str]


def learn(
    subword_type: str, words: Counter[str], vocab_size: int, min_frequency: int, cased: bool
) -> Learned:
    """Learn `vocab_size` merges (bpe) or vocab.txt lines (wordpiece) from word counts; `UsageError` when there is too little text."""
    if not words:
        raise UsageError("--input_files: there are no words to learn from")
    return (_learn_bpe if subword_type == "bpe" else _learn_wordpiece)(
        words, vocab_size, min_frequency, cased
    )


def _train(
    words: Counter[str], units: Iterable[str], size: int, min_frequency: int, **affix: str
) -> list[tuple[str, str]]:
    """The trainer's merges, in order, until it has `size` tokens; `units` are the tokens it starts from, in the order of their ids.

    Naming the units settles their ids, and with them which of two equally frequent pairs comes first: left to itself the
    library numbers them in the order of a hash table.
    """
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import models, pre_tokenizers, trainers

    scale = max(1, -(-words.total() // LARGEST_FEED))
    pipeline = Pipeline(models.BPE(**affix))
    pipeline.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(" ")
    if len(words) > MOST_LEARNED:
        words = Counter(
            dict(sorted(words.items(), key=lambda item: (-item[1], item[0]))[:MOST_LEARNED])
        )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=max(1, round(min_frequency / scale)),
        special_tokens=list(units),
        show_progress=sys.stderr.isatty(),
        **affix,
    )
    pipeline.train_from_iterator(_repeated(words, scale), trainer)
    merges = json.loads(pipeline.to_str())["model"]["merges"]
    return [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]


def _repeated(words: Counter[str], scale: int) -> Iterator[str]:
    for word, count in sorted(words.items()):
        left = (count + scale // 2) // scale
        while left > 0:
            yield " ".join([word] * min(left, _FEED_WORDS))
            left -= _FEED_WORDS


def _first_made(
    merges: list[tuple[str, str]], made: Callable[[str, str], str], known: set[str]
) -> list[tuple[str, str]]:
    """The merges that make a new token: fastBPE wants each token made in one way only."""
    kept = []
    for left, right in merges:
        token = made(left, right)
        if token not in known:
            known.add(token)
            kept.append((left, right))
    return kept


def _learn_bpe(words: Counter[str], vocab_size: int, min_frequency: int, cased: bool) -> Learned:
    notes = []
    words = Counter({word: count for word, count in words.items() if word not in BPE_WORDS})
    learnable = Counter(
        {
            word: count
            for word, count in words.items()
            if len(word) <= LONGEST_LEARNED and not _UNFIT.search(word)
        }
    )
    if len(learnable) < len(words):
        notes.append(
            f"{len(words) - len(learnable):,} words over {LONGEST_LEARNED} characters or with {END} in them were not learned from"
        )
    units = sorted({unit for word in learnable for unit in (*word, word[-1] + END)})
    found = _train(learnable, units, len(units) + vocab_size, min_frequency, end_of_word_suffix=END)
    merges = _first_made(found, lambda left, right: left + right, set(units))
    if not merges:
        raise UsageError(
            "--input_files: no two letters stand together often enough: give more text or a smaller --min_frequency"
        )
    if len(merges) < vocab_size:
        notes.append(
            f"the text has {len(merges):,} merges, not {vocab_size:,}: pairs seen less than {min_frequency} times are not merged"
        )

    codes = parse_codes([f"{left} {right} 0" for left, right in merges], "codes")
    known = {*units, *(left + right for left, right in merges)}
    engine = tokenizers_engine(
        codes, {written(unit, final) for unit in known for final in {False, unit.endswith(END)}}
    )
    counts: Counter[str] = Counter()
    uses: Counter[str] = Counter()
    whole = 0
    listed = sorted(words)
    for begin in range(0, len(listed), 100_000):
        batch = listed[begin : begin + 100_000]
        for word, joined in zip(batch, engine(batch), strict=True):
            pieces = joined.split(" ")
            for piece in pieces:
                counts[piece] += words[word]
            uses[pieces[-1] + END] += words[word]
            for piece in pieces[:-1]:
                uses[piece[:-2]] += words[word]
            whole += words[word] if len(pieces) == 1 else 0
    # A merge was done as often as its token is a piece or went into the merges after it.
    for left, right in reversed(merges):
        uses[left] += uses[left + right]
        uses[right] += uses[left + right]
    if max(counts.values()) > LARGEST_COUNT:
        notes.append(
            f"counts over {LARGEST_COUNT:,} are written as that, the most that fastBPE can read"
        )
    lines = [f"{left} {right} {uses[left + right]}\n" for left, right in merges]
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    vocab = [f"{piece} {min(count, LARGEST_COUNT)}\n" for piece, count in ranked]
    tokenizer = BpeTokenizer(
        "".join(lines).encode(),
        "".join(vocab).encode(),
        cased=cased,
        extra_tokens=TokenizerConfig().extra_tokens,
    )
    return Learned(tokenizer, counts.total(), whole, 0, notes)


def _learn_wordpiece(
    words: Counter[str], vocab_size: int, min_frequency: int, cased: bool
) -> Learned:
    notes = []
    least = 2 * len(SPECIALS)
    if vocab_size < least:
        raise UsageError(
            f"--vocab_size: {vocab_size} leaves no room for pieces: give {least} or more"
        )
    learnable = Counter({word: count for word, count in words.items() if len(word) <= LONGEST_WORD})
    letters: Counter[str] = Counter()
    for word, count in learnable.items():
        for unit in _letters(word):
            letters[unit] += count
    # Half of the vocabulary is for longer pieces, however many letters the text has.
    ranked = sorted(
        (unit for unit in letters if letters[unit] >= min_frequency),
        key=lambda unit: (-letters[unit], unit),
    )
    units = set(ranked[: (vocab_size - len(SPECIALS)) // 2])
    if len(units) < len(letters):
        notes.append(
            f"{len(letters) - len(units):,} rare letters are left out; words with them become [UNK]"
        )
    learnable = Counter(
        {word: count for word, count in learnable.items() if units.issuperset(_letters(word))}
    )
    first = [*SPECIALS, *sorted(units)]
    # The library also numbers letters that only stand inside words, as if they began some.
    unused = {unit[2:] for unit in units if unit.startswith("##") and len(unit) == 3} - units
    merges = (
        _train(
            learnable,
            first,
            vocab_size + len(unused),
            min_frequency,
            continuing_subword_prefix="##",
        )
        if learnable
        else []
    )
    known = set(first)
    made = _first_made(merges, lambda left, right: left + right.removeprefix("##"), known)
    tokens = [*first, *(left + right.removeprefix("##") for left, right in made)][:vocab_size]
    if len(tokens) < vocab_size:
        notes.append(
            f"the text has {len(tokens):,} pieces, not {vocab_size:,}: pairs seen less than {min_frequency} times are not joined"
        )
    tokenizer = WordPieceTokenizer("".join(f"{token}\n" for token in tokens).encode(), cased=cased)
    pieces = whole = unknown = 0
    listed = sorted(words)
    for begin in range(0, len(listed), 100_000):
        batch = listed[begin : begin + 100_000]
        encoded = tokenizer.encode_lines([word.encode() for word in batch])
        for index, word in enumerate(batch):
            ids = encoded.ids[encoded.offsets[index] : encoded.offsets[index + 1]]
            pieces += len(ids) * words[word]
            if len(ids) == 1:
                whole, unknown = (
                    (whole, unknown + words[word])
                    if ids[0] == tokenizer.unk_id
                    else (whole + words[word], unknown)
                )
    return Learned(tokenizer, pieces, whole, unknown, notes)


def _letters(word: str) -> list[str]:
    return [word[0], *("##" + letter for letter in word[1:])]
