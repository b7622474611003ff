"""Lines of UTF-8 -> the ids of their words, all lines in one go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tpu_tlm.data.tokenizers.word_cache import LARGEST_TABLE, Counts, Ids, Splitter, WordTable
from tpu_tlm.data.tokenizers.word_index import LONGEST, PADDING, WordIndex, Words

Flags: TypeAlias = npt.NDArray[np.bool_]


class WhiteSpace:
    """What divides words: the characters `spaces`, the line feed among them.

    dropped: ASCII characters that are taken out of the text before.
    """

    def __init__(self, spaces: Iterable[str], dropped: bytes = b"") -> None:
        found = {character.encode() for character in spaces}
        self._dropped = dropped
        self._table = bytes(bytes([code]) in found for code in range(256))
        wide = [one for one in found if len(one) > 1]
        # Characters of two and of three bytes, and the bytes with which they begin.
        self._leads = bytes(code in {one[0] for one in wide} for code in range(256))
        self._wide = [
            (size, np.array([int.from_bytes(one, "little") for one in wide if len(one) == size]))
            for size in (2, 3)
        ]

    def words(self, lines: Sequence[bytes]) -> tuple[Words, Counts]:
        """The words of lines; line i has those from ends[i] to ends[i + 1], int64 [lines + 1]."""
        text = b"\n".join(lines)
        if lines and text.count(b"\n") >= len(lines):
            text = b"\n".join([line.replace(b"\n", b" ") for line in lines])
        text = text.translate(None, self._dropped)
        text = b"\n%b\n%b" % (text, b" " * PADDING) if lines else b"\n"
        is_space = np.frombuffer(text.translate(self._table), bool)
        if any(self._leads) and not text.isascii():
            is_space = self._with_wide(text, is_space)
        edges = np.flatnonzero(is_space[1:] != is_space[:-1]) + 1
        starts = edges[0::2].copy()
        breaks = np.flatnonzero(np.frombuffer(text, np.uint8) == 10)
        return Words(text, starts, edges[1::2] - starts), np.searchsorted(starts, breaks)

    def _with_wide(self, text: bytes, is_space: Flags) -> Flags:
        """`is_space` [bytes], true also at every byte of white space that is not ASCII."""
        is_space = is_space.copy()
        at = np.flatnonzero(np.frombuffer(text.translate(self._leads), bool))
        codes = np.ndarray((len(text) - 3,), "<u4", text, strides=(1,))[at]
        for size, wide in self._wide:
            found = at[np.isin(codes & ((1 << 8 * size) - 1), wide)]
            for byte in range(size):
                is_space[found + byte] = True
        return is_space


class LineTable(WordTable[bytes]):
    """A table of words that finds those of whole lines without taking them apart."""

    def __init__(
        self, split: Splitter[bytes], white_space: WhiteSpace, largest: int = LARGEST_TABLE
    ) -> None:
        super().__init__(split, largest)
        self._white_space = white_space

    def _clear(self) -> None:
        super()._clear()
        self._index = WordIndex()

    def lookup_lines(self, lines: Sequence[bytes]) -> tuple[Ids, Counts, Counts]:
        """What `lookup` returns for the words of lines, and where lines end.

        Line i has the words from ends[i] to ends[i + 1], int64 [lines + 1].
        """
        self._make_room()
        words, ends = self._white_space.words(lines)
        rows = self._index.find(words)
        other = np.flatnonzero(rows < 0)
        if len(other):
            held, words = len(self._rows), words.take(other)
            rows[other] = found = self._rows_of(words.to_list())
            # New words get their rows in the order in which they come.
            before = np.maximum.accumulate(np.concatenate([[held - 1], found[:-1]]))
            new = np.flatnonzero((found > before) & (words.lengths <= LONGEST))
            self._index.add(words.take(new), found[new])
        return *self._ids_of(rows), ends
