"""Lines of UTF-8 -> the ids of their words, all lines in one go."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from tpu_tlm.data.tokenizers.word_cache import LARGEST_TABLE, Counts, Ids, Splitter, WordTable
from tpu_tlm.data.tokenizers.word_index import LONGEST, PADDING, WordIndex, Words


class WhiteSpace:
    """What divides words: the characters `spaces`, the line feed among them.

    dropped: ASCII characters that are taken out of the text before.
    """

    def __init__(self, spaces: Iterable[str], dropped: bytes = b"") -> None:
        found = {character.encode() for character in spaces}
        self._dropped = dropped
        self._table = bytes(bytes([code]) in found for code in range(256))
        wide = sorted(one for one in found if len(one) > 1)
        self._wide = re.compile(b"|".join(map(re.escape, wide))) if wide else None

    def words(self, lines: Sequence[bytes]) -> tuple[Words, Counts]:
        """The words of lines; line i has those from ends[i] to ends[i + 1], int64 [lines + 1]."""
        text = b"\n".join(lines)
        if lines and text.count(b"\n") >= len(lines):
            text = b"\n".join([line.replace(b"\n", b" ") for line in lines])
        text = text.translate(None, self._dropped)
        if self._wide is not None and not text.isascii():
            text = self._wide.sub(b" ", text)
        text = b"\n%b\n%b" % (text, b" " * PADDING) if lines else b"\n"
        is_space = np.frombuffer(text.translate(self._table), bool)
        edges = np.flatnonzero(is_space[1:] != is_space[:-1]) + 1
        starts = edges[0::2].copy()
        breaks = np.flatnonzero(np.frombuffer(text, np.uint8) == 10)
        return Words(text, starts, edges[1::2] - starts), np.searchsorted(starts, breaks)


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
