"""Words of lines of UTF-8 by their places, all lines in one go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from tpu_tlm.data.tokenizers.word_index import PADDING, Integers, Words

Flags: TypeAlias = npt.NDArray[np.bool_]
LINE_FEED = 10
# White space of `str.split`, none of which lies beyond U+3000.
UNICODE_SPACES = tuple(filter(str.isspace, map(chr, range(0x3001))))


class Divider(Protocol):
    """What divides lines into words."""

    def words(self, lines: Sequence[bytes]) -> tuple[Words, Integers]:
        """The words of lines; line i has those from ends[i] to ends[i + 1], int64 [lines + 1]."""


def one_text(lines: Sequence[bytes]) -> bytes:
    """Lines without line feeds as one text: each between line feeds, then `PADDING` spaces."""
    return b"\n".join([b"", *lines, b" " * PADDING])


def byte_array(text: bytes) -> npt.NDArray[np.uint8]:
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


def words_between(text: bytes, is_between: Flags) -> tuple[Words, Integers]:
    """What a `Divider` returns for lines as `one_text` has them.

    is_between [bytes]: which bytes are in no word, line feeds among them.
    """
    edges = np.flatnonzero(is_between[1:] != is_between[:-1]) + 1
    starts = edges[0::2].copy()
    breaks = np.flatnonzero(byte_array(text) == LINE_FEED)
    return Words(text, starts, edges[1::2] - starts), np.searchsorted(starts, breaks)


class WhiteSpace:
    """Divides lines at the characters `spaces`, of which the line feed is one.

    dropped: ASCII characters that are taken out of the lines before, neither the space nor the line
    feed.
    """

    def __init__(self, spaces: Iterable[str], dropped: bytes = b"") -> None:
        self._spaces, self._dropped = Characters(spaces), dropped

    def words(self, lines: Sequence[bytes]) -> tuple[Words, Integers]:
        """The words of lines; line i has those from ends[i] to ends[i + 1], int64 [lines + 1]."""
        text = one_text(lines)
        if text.count(b"\n") > len(lines) + 1:
            text = one_text([line.replace(b"\n", b" ") for line in lines])
        text = text.translate(None, self._dropped)
        return words_between(text, self._spaces.bytes_in(text))
