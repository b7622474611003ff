"""The trainers of the library `tokenizers`, fed with counted words."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from tpu_tlm.data.tokenizers.word_counts import heaviest

# The library counts words one by one: larger corpora are scaled down to about this many words,
# which changes no frequent merge.
LARGEST_FEED = 20_000_000
# Pieces are learned from at most so many words and characters (about 500 MB); counts are of all
# words.
MOST_LEARNED, MOST_LEARNED_TEXT = 600_000, 5_000_000
# The unigram trainer needs about 400 bytes for each character of text without spaces.
MOST_UNIGRAM_TEXT = 1_200_000
# Of different pairs of neighbouring characters; the trainer needs about 500 bytes for each.
MOST_PAIRS = 300_000
_FEED_WORDS = 5000
_STEP, _DIGITS = 1e-4, 5  # of the unigram trainer's scores


def train_bpe(
    words: Counter[str],
    units: Iterable[str],
    size: int,
    min_frequency: int,
    *,
    end_of_word_suffix: str = "",
    continuing_subword_prefix: str = "",
) -> list[tuple[str, str]]:
    """The trainer's merges, in order, until it has `size` tokens.

    `units` are the tokens it starts from, in the order of their ids. Naming them settles their ids,
    and with them which of two equally frequent pairs comes first: the library by itself numbers
    them in the order of a hash table. Words are cut where no merge reaches, so that memory is
    bounded by `MOST_PAIRS`.
    """
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import models, pre_tokenizers, trainers

    # Every unit is one character of an alphabet of our own: so a word can be cut without its
    # pieces being taken for the beginnings and ends of words.
    listed = list(units)
    letter_of = {unit: chr(_letter(index)) for index, unit in enumerate(listed)}
    unit_of = {letter: unit for unit, letter in letter_of.items()}
    words, scale = learned_from(words)
    spelled: Counter[str] = Counter()
    for word, count in words.items():
        inner = [continuing_subword_prefix + letter for letter in word[1:]]
        letters = [letter_of[unit] for unit in _with_suffix(word[0], inner, end_of_word_suffix)]
        spelled["".join(letters)] += (count + scale // 2) // scale
    del words
    least = max(1, round(min_frequency / scale))
    pipeline = Pipeline(models.BPE())
    pipeline.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(" ")
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=least,
        special_tokens=list(letter_of.values()),
        show_progress=sys.stderr.isatty(),
    )
    pipeline.train_from_iterator(_repeated(cut_at_rare_pairs(spelled, least, size), 1), trainer)
    merges = json.loads(pipeline.to_str())["model"]["merges"]
    found = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]

    def token(letters: str) -> str:
        first, *rest = [unit_of[letter] for letter in letters]
        return first + "".join(unit.removeprefix(continuing_subword_prefix) for unit in rest)

    return [(token(left), token(right)) for left, right in found]


def _with_suffix(first: str, inner: list[str], suffix: str) -> list[str]:
    letters = [first, *inner]
    letters[-1] += suffix
    return letters


def _letter(index: int) -> int:
    """A code point for a unit: no space, no surrogate."""
    return index + 0x100 if index + 0x100 < 0xD800 else index + 0x100 + 0x800


def cut_at_rare_pairs(words: Counter[str], least: int, size: int) -> Counter[str]:
    """The words, cut between characters that stand together less than `least` times.

    No merge can reach over such a place. Of the other pairs only the `MOST_PAIRS` most frequent are
    kept (more for a large vocabulary, of `size`), far more than merges are made: so a text with
    millions of different pairs, such as Chinese, does not need memory for each of them.
    """
    listed = [word for word in words if len(word) > 1 and words[word] > 0]
    if not listed:
        return Counter()
    codes = np.frombuffer("".join(listed).encode("utf-32-le"), np.uint32).astype(np.int64)
    lengths = np.fromiter(map(len, listed), np.int64, len(listed))
    counts = np.fromiter((words[word] for word in listed), np.int64, len(listed))
    ends = np.cumsum(lengths)
    keys = codes[:-1] << 21 | codes[1:]
    inside = np.ones(len(keys), bool)
    inside[ends[:-1] - 1] = False
    weights = np.repeat(counts, lengths)[:-1]
    pairs, which = np.unique(keys[inside], return_inverse=True)
    totals = np.bincount(which, weights[inside], len(pairs))
    kept = totals >= least
    most = max(MOST_PAIRS, 4 * size)
    if kept.sum() > most:
        # As the trainer does it: of equally frequent pairs the one with the lower ids first.
        kept[np.argsort(-totals, kind="stable")[most:]] = False
    cut = np.ones(len(keys), bool)
    cut[inside] = ~kept[which]
    del keys, inside, weights, which
    found: Counter[str] = Counter()
    begin = 0
    joined = "".join(listed)
    places = np.concatenate([np.flatnonzero(cut) + 1, [len(joined)]])
    owners = np.searchsorted(ends, places - 1, "right")
    for end, owner in zip(places.tolist(), counts[owners].tolist(), strict=True):
        if end - begin > 1:
            found[joined[begin:end]] += owner
        begin = end
    return found


def train_unigram(
    words: Counter[str], special: list[str], size: int, unknown: str
) -> list[tuple[str, float]]:
    """Pieces and scores of a unigram model, special tokens first."""
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import models, pre_tokenizers, trainers

    words, scale = learned_from(words, MOST_UNIGRAM_TEXT)
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


def learned_from(words: Counter[str], most_text: int | None = None) -> tuple[Counter[str], int]:
    """The words to learn from, and the number that their counts are divided by.

    most_text: characters of the words; None = `MOST_LEARNED_TEXT`.
    """
    scale = max(1, -(-words.total() // LARGEST_FEED))
    most_text = MOST_LEARNED_TEXT if most_text is None else most_text
    if len(words) > MOST_LEARNED or sum(map(len, words)) > most_text:
        words = heaviest(words, MOST_LEARNED, most_text)
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
