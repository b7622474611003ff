"""Which lines are blank to a reader: white space of Unicode, invisible characters."""

from __future__ import annotations

import re
from collections.abc import Iterable

# What `str.isspace` takes for white space.
_SPACES = (
    (0x09, 0x0D),
    (0x1C, 0x20),
    (0x85, 0x85),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
)
# Controls, format characters, fillers and variation selectors: they show nothing by themselves.
_INVISIBLE = (
    (0x00, 0x20),
    (0x7F, 0xA0),
    (0xAD, 0xAD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x2800, 0x2800),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFFB),
)
_TAGS = rb"\xf3\xa0[\x80-\xbf][\x80-\xbf]"  # U+E0000 to U+E0FFF


def _encoded(ranges: Iterable[tuple[int, int]]) -> list[bytes]:
    return [chr(code).encode() for first, last in ranges for code in range(first, last + 1)]


def _only(characters: Iterable[bytes], *others: bytes) -> re.Pattern[bytes]:
    """A pattern that matches lines of nothing but these characters."""
    patterns = [*map(re.escape, sorted(set(characters))), *others]
    return re.compile(b"(?:" + b"|".join(patterns) + b")*")


_ALL = _encoded((*_SPACES, *_INVISIBLE))
# A place where a line may be broken inside a text: alone in a line it is what a wrapped line left.
_ZERO_WIDTH = "\u200b".encode()
_BREAKS_LINE = re.compile(b"(?:" + _ZERO_WIDTH + b")+")
_INVISIBLE_LINE = _only(_ALL, _TAGS)
# Most lines begin with another byte than any of these characters does, and are decided by it.
LEADS: frozenset[int] = frozenset({character[0] for character in _ALL} | {0xF3})


def is_blank(line: bytes) -> bool:
    """Whether the line ends a document: nothing of it shows.

    A line of nothing but zero-width spaces (U+200B) does not end one, as in the reading loop of
    BERT's create_pretraining_data.py; it is left out.
    """
    return is_invisible(line) and (line[:3] != _ZERO_WIDTH or not _BREAKS_LINE.fullmatch(line))


def is_invisible(line: bytes) -> bool:
    """Whether nothing of the line shows: blank, or only zero-width and control characters."""
    return not line or (line[0] in LEADS and _INVISIBLE_LINE.fullmatch(line) is not None)
