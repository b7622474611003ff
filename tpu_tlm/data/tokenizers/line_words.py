"""Words of lines of UTF-8 by their places, all lines in one go, and the ids of these words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from tpu_tlm.data.tokenizers.word_cache import LARGEST_TABLE, Counts, Ids, Splitter, WordTable
from tpu_tlm.data.tokenizers.word_index import LONGEST, PADDING, WordIndex, Words

Flags: TypeAlias = npt.NDArray[np.bool_]
LINE_FEED = 10


class Divider(Protocol):
    """What divides lines into words."""

    def words(self, lines: Sequence[bytes]) -> tuple[Words, Counts]:
        """The words of lines; line i has those from ends[i] to ends[i + 1], int64 [lines + 1]."""


def one_text(lines: Sequence[bytes]) -> bytes:
    """Lines without line feeds as one text: each between line feeds, then `PADDING` spaces."""
    return b"\n".join([b"", *lines, b" " * PADDING])


def codes_of(text: bytes) -> npt.NDArray[np.uint8]:
    """The bytes of what `one_text` returned, as far as its last line feed."""
    return np.frombuffer(text, np.uint8, len(text) - PADDING)


class Characters:
    """Finds some characters in UTF-8: any of ASCII, others of two or three bytes."""

    def __init__(self, characters: Iterable[str]) -> None:
        found = {character.encode() for character in characters}
        self._ascii = bytes(bytes([code]) in found for code in range(256))
        wide = [one for one in found if len(one) > 1]
        self._leads = bytes(code in {one[0] for one in wide} for code in range(256))
        self._wide = [
            (size, np.array([int.from_bytes(one, "little") for one in wide if len(one) == size]))
            for size in (2, 3)
        ]

    def bytes_in(self, text: bytes) -> Flags:
        """Which bytes of what `one_text` returned belong to one of the characters, as far as its
        last line feed.
        """
        size = len(text) - PADDING
        found = np.frombuffer(bytearray(text.translate(self._ascii)), bool, size)
        if any(self._leads) and not text.isascii():
            at = np.flatnonzero(np.frombuffer(text.translate(self._leads), bool))
            codes = np.ndarray((size,), "<u4", text, strides=(1,))[at]
            for length, wide in self._wide:
                begins = at[np.isin(codes & ((1 << 8 * length) - 1), wide)]
                for byte in range(length):
                    found[begins + byte] = True
        return found


def words_between(text: bytes, is_between: Flags) -> tuple[Words, Counts]:
    """What a `Divider` returns for lines as `one_text` has them.

    is_between [bytes]: which bytes are in no word, line feeds among them.
    """
    edges = np.flatnonzero(is_between[1:] != is_between[:-1]) + 1
    starts = edges[0::2].copy()
    breaks = np.flatnonzero(codes_of(text) == LINE_FEED)
    return Words(text, starts, edges[1::2] - starts), np.searchsorted(starts, breaks)


class WhiteSpace:
    """Divides lines at the characters `spaces`, of which the line feed is one.

    dropped: ASCII characters that are taken out of the lines before.
    """

    def __init__(self, spaces: Iterable[str], dropped: bytes = b"") -> None:
        self._spaces, self._dropped = Characters(spaces), dropped

    def words(self, lines: Sequence[bytes]) -> tuple[Words, Counts]:
        """The words of lines; line i has those from ends[i] to ends[i + 1], int64 [lines + 1]."""
        text = one_text(lines)
        if text.count(b"\n") > len(lines) + 1:
            text = one_text([line.replace(b"\n", b" ") for line in lines])
        text = text.translate(None, self._dropped)
        return words_between(text, self._spaces.bytes_in(text))


class LineTable(WordTable):
    """A table of words that finds those of whole lines without taking them apart."""

    def __init__(self, split: Splitter, divider: Divider, largest: int = LARGEST_TABLE) -> None:
        super().__init__(split, largest)
        self._divider = divider

    def _clear(self) -> None:
        super()._clear()
        self._index = WordIndex()

    def lookup_lines(self, lines: Sequence[bytes]) -> tuple[Ids, Counts, Counts]:
        """What `lookup` returns for the words of lines, and where lines end.

        Line i has the words from ends[i] to ends[i + 1], int64 [lines + 1].
        """
        self._make_room()
        words, ends = self._divider.words(lines)
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
