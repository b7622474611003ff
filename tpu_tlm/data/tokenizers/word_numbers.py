"""Words -> numbers in the order in which they come first, and how often words of lines occur."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tpu_tlm.data.tokenizers.line_words import Divider
from tpu_tlm.data.tokenizers.word_index import LONGEST, Integers, WordIndex, Words

# Starting anew costs little, for the words that make up most of a text are back at once. About 70
# and 50 MB.
LARGEST_TABLE = 300_000
LARGEST_TEXT = 16 << 20
# Words that are looked up at a time: what is new in one block the next block finds in the index.
_BLOCK = 1 << 16


class _Numbers(dict[bytes, int]):
    """Word -> number; a new word gets the next one and is appended to `words`."""

    __slots__ = ("words",)

    def __init__(self) -> None:
        super().__init__()
        self.words: list[bytes] = []

    def __missing__(self, word: bytes) -> int:
        number = self[word] = len(self.words)
        self.words.append(word)
        return number


class WordNumbers:
    """Numbers words: a dictionary has all of them, an index those that are short."""

    def __init__(self) -> None:
        self._numbers = _Numbers()
        self._index = WordIndex()
        self._text = 0  # bytes of the words

    @property
    def words(self) -> list[bytes]:
        """The words by number."""
        return self._numbers.words

    def is_full(self, largest: int) -> bool:
        """Whether it holds more than `largest` words, or more text than it should."""
        return len(self.words) > largest or self._text > LARGEST_TEXT

    def numbers_of_list(self, words: list[bytes]) -> Integers:
        """The numbers of words, int64 [words]."""
        known = len(self.words)
        numbers = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
        self._text += sum(map(len, self.words[known:]))
        return numbers

    def numbers_of(self, words: Words) -> Integers:
        """The numbers of words in a text, int64 [words]; no object is made for one in the index."""
        if len(words.starts) > _BLOCK:
            bounds = range(0, len(words.starts), _BLOCK)
            return np.concatenate(
                [self.numbers_of(words.take(slice(a, a + _BLOCK))) for a in bounds]
            )
        numbers = self._index.find(words)
        other = np.flatnonzero(numbers < 0)
        if len(other):
            held, words = len(self.words), words.take(other)
            numbers[other] = found = self.numbers_of_list(words.to_list())
            # New words get their numbers in the order in which they come.
            before = np.maximum.accumulate(np.concatenate([[held - 1], found[:-1]]))
            new = np.flatnonzero((found > before) & (words.lengths <= LONGEST))
            self._index.add(words.take(new), found[new])
        return numbers


class LineCounter:
    """Counts the words that a divider finds in lines."""

    def __init__(self, divider: Divider, largest: int = LARGEST_TABLE) -> None:
        self._divider, self._largest = divider, largest
        self._numbers = WordNumbers()

    def count(self, lines: Sequence[bytes]) -> Counter[bytes]:
        """How often each word occurs in the lines; words that were counted before come first."""
        if self._numbers.is_full(self._largest):
            self._numbers = WordNumbers()
        counts = np.bincount(self._numbers.numbers_of(self._divider.words(lines)[0]))
        listed, found = self._numbers.words, np.flatnonzero(counts)
        return Counter(
            dict(zip([listed[number] for number in found], counts[found].tolist(), strict=True))
        )
