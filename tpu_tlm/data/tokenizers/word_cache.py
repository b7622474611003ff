"""Word -> subword ids, each distinct word split once: what makes tokenizing fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tpu_tlm.data.tokenizers.word_index import grown

Ids: TypeAlias = npt.NDArray[np.uint32]
Counts: TypeAlias = npt.NDArray[np.int64]
# Words -> the ids of all of them one after the other, and how many each word has.
Splitter = Callable[[list[bytes]], tuple[Ids, Counts]]

# Starting anew costs little, for the words that make up most of a text are back at once. About 70
# and 50 MB.
LARGEST_TABLE = 300_000
LARGEST_TEXT = 16 << 20


class _Rows(dict[bytes, int]):
    """Word -> row number; a new word gets the next row and is noted as waiting to be split."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[bytes] = []

    def __missing__(self, word: bytes) -> int:
        row = self[word] = len(self)
        self.waiting.append(word)
        return row


class WordTable:
    """Splits words through `split` and remembers a bounded number of them."""

    def __init__(self, split: Splitter, largest: int = LARGEST_TABLE) -> None:
        self._split: Splitter = split
        self._largest = largest
        self._clear()

    def _clear(self) -> None:
        self._rows: _Rows = _Rows()
        self._starts = np.zeros(1024, np.int64)
        self._lengths = np.zeros(1024, np.int64)
        self._ids = np.zeros(4096, np.uint32)
        self._used = 0
        self._text = 0

    def lookup(self, words: list[bytes]) -> tuple[Ids, Counts]:
        """Ids of all the words one after the other uint32 [n]; word i has those from begins[i] to
        begins[i + 1], int64 [words + 1].
        """
        self._make_room()
        return self._ids_of(self._rows_of(words))

    def _make_room(self) -> None:
        if len(self._rows) > self._largest or self._text > LARGEST_TEXT:
            self._clear()

    def _rows_of(self, words: list[bytes]) -> Counts:
        """The rows of words, int64 [words]; new words are split."""
        rows = np.fromiter(map(self._rows.__getitem__, words), np.int64, len(words))
        if self._rows.waiting:
            waiting, self._rows.waiting = self._rows.waiting, []
            self._text += sum(map(len, waiting))
            try:
                self._add(*self._split(waiting))
            except BaseException:
                self._clear()  # the rows of these words have no ids
                raise
        return rows

    def _ids_of(self, rows: Counts) -> tuple[Ids, Counts]:
        """What `lookup` returns for the words of these rows."""
        lengths = self._lengths[rows]
        begins = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=begins[1:])
        # Token t of the output lies at (its word's start in the table) + (t - the word's start in
        # the output).
        shift = self._starts[rows] - begins[:-1]
        return self._ids[np.repeat(shift, lengths) + np.arange(begins[-1])], begins

    def _add(self, ids: Ids, lengths: Counts) -> None:
        """Append rows for words that were waiting, in their order."""
        first, last = len(self._rows) - len(lengths), len(self._rows)
        used = self._used + len(ids)
        self._starts = grown(self._starts, last)
        self._lengths = grown(self._lengths, last)
        self._ids = grown(self._ids, used)
        self._lengths[first:last] = lengths
        self._starts[first:last] = self._used + np.cumsum(lengths) - lengths
        self._ids[self._used : used] = ids
        self._used = used
