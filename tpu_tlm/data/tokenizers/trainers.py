"""The trainers of the library `tokenizers`, fed with counted words."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from tpu_tlm.data.tokenizers.word_counts import heaviest

# The library counts words one by one: larger corpora are scaled down to about this many words,
# which changes no frequent merge.
LARGEST_FEED = 20_000_000
# Merges are learned from at most so many words and characters (about 1 GB); counts are of all
# words.
MOST_LEARNED, MOST_LEARNED_TEXT = 500_000, 4_000_000
_FEED_WORDS = 5000
_STEP, _DIGITS = 1e-4, 5  # of the unigram trainer's scores


def train_bpe(
    words: Counter[str], units: Iterable[str], size: int, min_frequency: int, **affix: str
) -> list[tuple[str, str]]:
    """The trainer's merges, in order, until it has `size` tokens.

    `units` are the tokens it starts from, in the order of their ids. Naming them settles their ids,
    and with them which of two equally frequent pairs comes first: the library by itself numbers
    them in the order of a hash table.
    """
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import models, pre_tokenizers, trainers

    words, scale = learned_from(words)
    pipeline = Pipeline(models.BPE(**affix))
    pipeline.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(" ")
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


def train_unigram(
    words: Counter[str], special: list[str], size: int, unknown: str
) -> list[tuple[str, float]]:
    """Pieces and scores of a unigram model, special tokens first."""
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import models, pre_tokenizers, trainers

    words, scale = learned_from(words)
    pipeline = Pipeline(models.Unigram())
    pipeline.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(" ")
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=special, unk_token=unknown, show_progress=False
    )
    # Sums of floats by several threads differ from run to run, and the pieces with them.
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        pipeline.train_from_iterator(_repeated(words, scale), trainer)
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
    vocab = json.loads(pipeline.to_str())["model"]["vocab"]
    return _settled([(str(piece), float(score)) for piece, score in vocab], special)


def _settled(vocab: list[tuple[str, float]], special: list[str]) -> list[tuple[str, float]]:
    """The same pieces in one order and with the same scores on every run.

    The trainer adds the characters that its pieces lack in the order of a hash table, each a little
    above the lowest score: they all get the lowest one here.
    """
    pieces = [(piece, score) for piece, score in vocab if piece not in special]
    least = min((score for _, score in pieces), default=0.0)
    settled = []
    for piece, score in pieces:
        steps = (score - least) / _STEP
        added = len(piece) == 1 and abs(steps - round(steps)) < 1e-3 and steps < len(pieces)
        settled.append((piece, round(least if added else score, _DIGITS)))
    settled.sort(key=lambda item: (-item[1], item[0]))
    return [*((token, 0.0) for token in special), *settled]


def learned_from(words: Counter[str]) -> tuple[Counter[str], int]:
    """The words to learn from, and the number that their counts are divided by."""
    scale = max(1, -(-words.total() // LARGEST_FEED))
    if len(words) > MOST_LEARNED or sum(map(len, words)) > MOST_LEARNED_TEXT:
        words = heaviest(words, MOST_LEARNED, MOST_LEARNED_TEXT)
    return words, scale


def _repeated(words: Counter[str], scale: int) -> Iterator[str]:
    for word, count in sorted(words.items()):
        left = (count + scale // 2) // scale
        while left > 0:
            yield " ".join([word] * min(left, _FEED_WORDS))
            left -= _FEED_WORDS


def first_made(
    merges: list[tuple[str, str]], made: Callable[[str, str], str], known: set[str]
) -> list[tuple[str, str]]:
    """The merges that make a new token: a token is made in one way only."""
    kept = []
    for left, right in merges:
        token = made(left, right)
        if token not in known:
            known.add(token)
            kept.append((left, right))
    return kept
