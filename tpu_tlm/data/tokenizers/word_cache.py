"""Word -> subword ids, each distinct word split once: what makes tokenizing fast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tpu_tlm.data.tokenizers.line_words import Divider
from tpu_tlm.data.tokenizers.word_index import grown
from tpu_tlm.data.tokenizers.word_numbers import LARGEST_TABLE, WordNumbers

Ids: TypeAlias = npt.NDArray[np.uint32]
Counts: TypeAlias = npt.NDArray[np.int64]
# Words -> the ids of all of them one after the other, and how many each word has.
Splitter = Callable[[list[bytes]], tuple[Ids, Counts]]


class WordTable:
    """Splits words through `split` and remembers a bounded number of them."""

    def __init__(self, split: Splitter, largest: int = LARGEST_TABLE) -> None:
        self._split: Splitter = split
        self._largest = largest
        self._clear()

    def _clear(self) -> None:
        self._numbers = WordNumbers()
        self._known = 0  # words that have been split
        self._starts = np.zeros(1024, np.int64)
        self._lengths = np.zeros(1024, np.int64)
        self._ids = np.zeros(4096, np.uint32)
        self._used = 0

    def lookup(self, words: list[bytes]) -> tuple[Ids, Counts]:
        """Ids of all the words one after the other uint32 [n]; word i has those from begins[i] to
        begins[i + 1], int64 [words + 1].
        """
        self._make_room()
        return self._ids_of(self._numbers.numbers_of_list(words))

    def _make_room(self) -> None:
        if self._numbers.is_full(self._largest):
            self._clear()

    def _ids_of(self, rows: Counts) -> tuple[Ids, Counts]:
        """What `lookup` returns for words of these numbers; new ones are split."""
        if new := self._numbers.words[self._known :]:
            try:
                self._add(*self._split(new))
            except BaseException:
                self._clear()  # these words have no ids
                raise
        lengths = self._lengths[rows]
        begins = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=begins[1:])
        # Token t of the output lies at (its word's start in the table) + (t - the word's start in
        # the output).
        shift = self._starts[rows] - begins[:-1]
        return self._ids[np.repeat(shift, lengths) + np.arange(begins[-1])], begins

    def _add(self, ids: Ids, lengths: Counts) -> None:
        """Append the ids of the words that follow those that are known."""
        first, last = self._known, self._known + len(lengths)
        used = self._used + len(ids)
        self._starts = grown(self._starts, last)
        self._lengths = grown(self._lengths, last)
        self._ids = grown(self._ids, used)
        self._lengths[first:last] = lengths
        self._starts[first:last] = self._used + np.cumsum(lengths) - lengths
        self._ids[self._used : used] = ids
        self._used, self._known = used, last


class LineTable(WordTable):
    """A table of words that finds those of whole lines without taking them apart."""

    def __init__(self, split: Splitter, divider: Divider, largest: int = LARGEST_TABLE) -> None:
        super().__init__(split, largest)
        self._divider = divider

    def lookup_lines(self, lines: Sequence[bytes]) -> tuple[Ids, Counts, Counts]:
        """What `lookup` returns for the words of lines, and where lines end.

        Line i has the words from ends[i] to ends[i + 1], int64 [lines + 1].
        """
        self._make_room()
        words, ends = self._divider.words(lines)
        return *self._ids_of(self._numbers.numbers_of(words)), ends
