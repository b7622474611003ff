"""The chunks of lines, all lines in one go, as a `Chunker` has them line by line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tpu_tlm.data.tokenizers.chunks import SPACES, Chunker
from tpu_tlm.data.tokenizers.line_words import (
    LINE_FEED,
    Characters,
    Flags,
    byte_array,
    one_text,
    words_between,
)
from tpu_tlm.data.tokenizers.word_index import PADDING, Integers, Words

_BLANK = 32
_LEAD_OF_TWO = 0xC2  # white space of two bytes begins with it, and none of three has it
_VISIBLE = bytes(33 <= code <= 126 for code in range(256))


class LineChunks:
    """Divides lines as a `Chunker` does."""

    def __init__(self, chunker: Chunker) -> None:
        self._chunker = chunker
        self._spaces = Characters(SPACES)

    def words(self, lines: Sequence[bytes]) -> tuple[Words, Integers]:
        """The chunks of lines; line i has those from ends[i] to ends[i + 1], int64 [lines + 1]."""
        text = one_text(lines)
        if text.count(b"\n") > len(lines) + 1:
            return self._one_by_one(lines)
        whole = self._whole(lines)
        return self._gpt2(text, whole) if self._chunker.gpt2 else self._between(text, whole)

    def _whole(self, lines: Sequence[bytes]) -> list[int]:
        """The lines that are one chunk."""
        is_whole = self._chunker.is_whole
        plain = b"\n".join([line for line in lines if line.isascii()]).decode()
        other = b"\n".join([line for line in lines if not line.isascii()]).decode()
        if not is_whole(plain) and not is_whole(other):
            return []
        return [index for index, line in enumerate(lines) if is_whole(line.decode())]

    def _one_by_one(self, lines: Sequence[bytes]) -> tuple[Words, Integers]:
        """The chunks of lines in which there are line feeds."""
        found = [[chunk.encode() for chunk in self._chunker(line.decode())] for line in lines]
        chunks = [chunk for line in found for chunk in line if chunk]
        lengths = np.array([*map(len, chunks)], np.int64)
        text = b"".join([*chunks, b" " * PADDING])
        ends = np.cumsum([0, *(sum(map(bool, line)) for line in found)])
        return Words(text, np.cumsum(lengths) - lengths, lengths), ends

    def _between(self, text: bytes, whole: list[int]) -> tuple[Words, Integers]:
        codes = byte_array(text)
        visible = np.frombuffer(text.translate(_VISIBLE), bool)[: len(codes)]
        outside = codes == LINE_FEED
        breaks = np.flatnonzero(outside)
        outside[1:-1] |= (codes[1:-1] == _BLANK) & visible[:-2] & visible[2:]
        for line in whole:
            outside[breaks[line] + 1 : breaks[line + 1]] = False
        return words_between(text, outside)

    def _gpt2(self, text: bytes, whole: list[int]) -> tuple[Words, Integers]:
        codes = byte_array(text)
        line_feed = codes == LINE_FEED
        breaks = np.flatnonzero(line_feed)
        begins = _gpt2_begins(codes, self._spaces.bytes_in(text) & ~line_feed, line_feed)
        for line in whole:
            first, end = breaks[line] + 1, breaks[line + 1]
            begins[first:end] = False
            begins[first] = True
        places = np.flatnonzero(begins | line_feed)
        starts = begins[places[:-1]]
        starts, lengths = places[:-1][starts], np.diff(places)[starts]
        return Words(text, starts, lengths), np.searchsorted(starts, breaks)


def _gpt2_begins(codes: np.ndarray, space: Flags, line_feed: Flags) -> Flags:
    """The bytes with which words of GPT-2's pattern begin.

    These are runs of other characters, with the blank before them, and runs of white space. Of the
    latter, the last character before other ones is no part: it is the blank, or by itself.
    """
    other = ~(space | line_feed)
    begins = np.zeros(len(codes), bool)
    begins[1:] = space[1:] & ~space[:-1]
    begins[1:] |= other[1:] & ~(other[:-1] | (codes[:-1] == _BLANK))
    last = np.flatnonzero(space[:-1] & other[1:])
    wide = codes[last] >= 128
    size = np.where(codes[last - 1] == _LEAD_OF_TWO, 2, 3)
    begins[last - np.where(wide, size - 1, 0)] = True
    return begins
