"""Word -> subword ids, each distinct word split once: what makes tokenizing fast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

Word = TypeVar("Word", str, bytes)
Splitter = Callable[[list[Word]], list[Sequence[int]]]

# About 60 MB of words and ids; real text stays under it for a long time, and starting anew costs little.
LARGEST_TABLE = 300_000


class _Rows(dict[Word, int]):
    """Word -> row number; a new word gets the next row and is noted as waiting to be split."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Word] = []

    def __missing__(self, word: Word) -> int:
        row = self[word] = len(self)
        self.waiting.append(word)
        return row


class WordTable(Generic[Word]):
    """Splits words through `split` (a list of words -> a sequence of ids each) and remembers a bounded number of them."""

    def __init__(self, split: Splitter[Word], largest: int = LARGEST_TABLE) -> None:
        self._split: Splitter[Word] = split
        self._largest = largest
        self._clear()

    def _clear(self) -> None:
        self._rows: _Rows[Word] = _Rows()
        self._starts = np.zeros(1024, np.int64)
        self._lengths = np.zeros(1024, np.int64)
        self._ids = np.zeros(4096, np.uint32)
        self._used = 0

    def lookup(self, words: list[Word]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """Ids of all the words one after the other uint32 [n], and where each word ends in them int64 [words]."""
        if len(self._rows) > self._largest:
            self._clear()
        rows = np.array(list(map(self._rows.__getitem__, words)), np.int64)
        if self._rows.waiting:
            waiting, self._rows.waiting = self._rows.waiting, []
            self._add(self._split(waiting))
        lengths = self._lengths[rows]
        ends = np.cumsum(lengths)
        # Token t of the output lies at (its word's start in the table) + (t - the word's start in the output).
        shift = self._starts[rows] - (ends - lengths)
        total = int(ends[-1]) if len(ends) else 0
        return self._ids[np.repeat(shift, lengths) + np.arange(total)], ends

    def _add(self, pieces: list[Sequence[int]]) -> None:
        """Append rows for words that were waiting, in their order."""
        first = len(self._rows) - len(pieces)
        lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
        total = int(lengths.sum())
        self._starts = _grown(self._starts, len(self._rows))
        self._lengths = _grown(self._lengths, len(self._rows))
        self._ids = _grown(self._ids, self._used + total)
        self._lengths[first : first + len(pieces)] = lengths
        self._starts[first : first + len(pieces)] = self._used + np.cumsum(lengths) - lengths
        self._ids[self._used : self._used + total] = np.fromiter((i for word in pieces for i in word), np.uint32, total)
        self._used += total


def _grown(array: npt.NDArray, size: int) -> npt.NDArray:
    if size <= len(array):
        return array
    grown = np.zeros(max(size, 2 * len(array)), array.dtype)
    grown[: len(array)] = array
    return grown
