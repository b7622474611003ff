"""Corpora: parts of text files -> documents of lines, in blocks of bounded size."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tpu_tlm.data.corpus.byte_blocks import BLOCK, cut_point, part_range, raw_blocks
from tpu_tlm.data.corpus.inputs import InputFile, Part, Slice, expand_inputs, plan_parts
from tpu_tlm.errors import UsageError
from tpu_tlm.filesystem import naming, open_read

__all__ = [
    "BadInput",
    "Document",
    "InputFile",
    "Part",
    "Slice",
    "expand_inputs",
    "plan_parts",
    "read_part",
]

LARGEST_JSON_LINE = 64 << 20
_EXAMPLES = 5


@dataclass(slots=True)
class Document:
    """A document, or a block of one that is too large to be held whole: UTF-8 lines without their line ends.

    Blank lines are left out. `first` and `last` say whether the block begins and ends its document (a block may have no lines
    and only end it); `cut` says that the last line goes on as the first line of the next block (b"" when only its end was
    missing), so nothing that belongs to a line's end may follow it here.
    """

    lines: list[bytes]
    first: bool = True
    last: bool = True
    cut: bool = False


@dataclass
class BadInput:
    """Input that had to be left out or mended: how often per kind, and where it was seen first."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, where: Callable[[], str], mend: str, strict: bool) -> None:
        """Count one; under `strict` raise `UsageError` naming the place instead."""
        if strict:
            raise UsageError(f"{where()}: {kind} (--strict): {mend}")
        self.counts[kind] = self.counts.get(kind, 0) + 1
        seen = self.examples.setdefault(kind, [])
        if len(seen) < _EXAMPLES:
            seen.append(where())

    def merge(self, other: BadInput) -> None:
        """Add another part's tally to this one."""
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            seen = self.examples.setdefault(kind, [])
            seen.extend(other.examples.get(kind, [])[: _EXAMPLES - len(seen)])

    def summary(self) -> list[str]:
        """One line per kind: its count and its first places; empty when the input was clean."""
        return [
            f"{kind}: {count:,} ({', '.join(self.examples[kind])}{', …' if count > len(self.examples[kind]) else ''})"
            for kind, count in sorted(self.counts.items())
        ]


def read_part(
    part: Part,
    json_field: str = "text",
    strict: bool = False,
    bad: BadInput | None = None,
    consumed: Callable[[int], None] | None = None,
) -> Iterator[Document]:
    """The documents of one part, in order, in constant memory.

    Plain text: a document is a run of lines without an empty line; JSON lines: the text of one line. Bytes that are not UTF-8
    become U+FFFD and their line is counted in `bad`; empty files and JSON lines without the field are counted. `consumed` is
    told how many bytes of the files were read since it was last called. Raises `UsageError` naming file and line for bad
    input under `strict`, `TlmError` for a damaged compressed file.
    """
    tally = bad if bad is not None else BadInput()
    tell = consumed or (lambda count: None)
    for piece in part.slices:
        read = _read_json if piece.file.kind == "json" else _read_plain
        known, documents = sum(tally.counts.values()), 0
        for document in read(piece, json_field, strict, tally, tell):
            documents += 1
            yield document
        whole = piece.end - piece.start == piece.file.size
        if whole and not documents and known == sum(tally.counts.values()):
            tally.add("empty file", lambda path=piece.file.path: path, "remove it", strict)  # type: ignore[misc]


class Place:
    """File and line of what is being read; lines before a part that starts inside a file are counted only when asked for."""

    def __init__(self, piece: Slice, start: int) -> None:
        self.path = piece.file.path
        self.start = start
        self.line = 0
        self._before: int | None = None

    def at(self, extra: int) -> Callable[[], str]:
        """Says where the line is that is `extra` lines after the one being read now, whenever it is asked."""
        line = self.line + extra + 1
        return lambda: f"{self.path}:{self._lines_before() + line}"

    def _lines_before(self) -> int:
        if self._before is None:
            self._before, left = 0, self.start
            if left:
                with naming(self.path), open_read(self.path) as stream:
                    while left > 0 and (data := stream.read(min(BLOCK, left))):
                        self._before += data.count(b"\n")
                        left -= len(data)
        return self._before


def mended(lines: list[bytes], place: Place, strict: bool, bad: BadInput) -> list[bytes]:
    """The lines with undecodable bytes replaced; each bad line is counted."""
    mended = []
    for number, line in enumerate(lines):
        try:
            line.decode()
        except UnicodeDecodeError:
            bad.add(
                "bytes that are not UTF-8 (replaced)",
                place.at(number),
                "convert the file to UTF-8",
                strict,
            )
            line = line.decode("utf-8", "replace").encode()
        mended.append(line)
    return mended


def is_utf8(block: bytes) -> bool:
    if block.isascii():
        return True
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_plain(
    piece: Slice, json_field: str, strict: bool, bad: BadInput, consumed: Callable[[int], None]
) -> Iterator[Document]:
    """Plain text: documents end at empty lines and at the end of the file."""
    start, end = part_range(piece)
    place = Place(piece, start.offset)
    document = Document([], first=start.is_document)
    size = 0
    in_line = start.in_line  # the line being read has given text to an earlier block
    for block, ends_line in raw_blocks(piece, start, end, consumed):
        lines = block.split(b"\n")
        if ends_line:
            lines.pop()
        if not is_utf8(block):
            lines = mended(lines, place, strict, bad)
        if b"\r" in block:
            lines = [line.removesuffix(b"\r") for line in lines]
        place.line += block.count(b"\n")
        last_index = len(lines) - 1
        for index, line in enumerate(lines):
            cut = index == last_index and not ends_line
            blank = not line or line.isspace()
            if not blank:
                document.lines.append(line)
                size += len(line)
            elif in_line:
                if not cut:
                    document.lines.append(b"")
            else:
                if not cut and (document.lines or not document.first):
                    yield document
                    document, size = Document([]), 0
                continue
            in_line = cut
        if document.lines and (in_line or size >= BLOCK):
            yield Document(document.lines, document.first, False, in_line)
            document, size = Document([], first=False), 0
    document.last = end.is_document
    if document.lines or (document.last and not document.first):
        yield document


def raw_lines(piece: Slice, consumed: Callable[[int], None]) -> Iterator[tuple[bytes, bool, Place]]:
    """The lines of a slice as they are, whether each is longer than `LARGEST_JSON_LINE` (then it is not whole), and the place."""
    start, end = part_range(piece)
    place = Place(piece, start.offset)
    held: list[bytes] = []
    held_size = 0
    for block, _ in raw_blocks(piece, start, end, consumed):
        *lines, rest = block.split(b"\n")
        for line in lines:
            held_size += len(line)
            held.append(line)
            whole, too_long = b"".join(held), held_size > LARGEST_JSON_LINE
            held, held_size = [], 0
            yield whole, too_long, place
            place.line += 1
        held_size += len(rest)
        # A line that is too long is counted, not held.
        held = [*held, rest] if held_size <= LARGEST_JSON_LINE else []
    if held_size:
        yield b"".join(held), held_size > LARGEST_JSON_LINE, place


def json_object(
    line: bytes,
    too_long: bool,
    json_field: str,
    place: Place,
    strict: bool,
    bad: BadInput,
    flag: str = "--json_field",
) -> dict[str, Any] | None:
    """The object in one JSON line, which has the field; None for a blank line, and for a bad one, which is counted."""
    if too_long:
        bad.add(
            f"JSON line over {LARGEST_JSON_LINE >> 20} MiB (skipped)",
            place.at(0),
            "split the document",
            strict,
        )
        return None
    if not line or line.isspace():
        return None
    if not is_utf8(line):
        line = mended([line], place, strict, bad)[0]
    try:
        value = json.loads(line)
    except ValueError:
        bad.add(
            "line that is not JSON (skipped)", place.at(0), "write one JSON object a line", strict
        )
        return None
    if not isinstance(value, dict) or json_field not in value:
        bad.add(
            f"JSON line without the field {json_field!r} (skipped)",
            place.at(0),
            f"name the field with {flag}",
            strict,
        )
        return None
    return value


def _read_json(
    piece: Slice, json_field: str, strict: bool, bad: BadInput, consumed: Callable[[int], None]
) -> Iterator[Document]:
    """JSON lines: every line is an object whose field holds a document."""
    for line, too_long, place in raw_lines(piece, consumed):
        value = json_object(line, too_long, json_field, place, strict, bad)
        if value is not None:
            yield from _json_document(value, json_field, place, strict, bad)


def _json_document(
    value: dict[str, Any], json_field: str, place: Place, strict: bool, bad: BadInput
) -> Iterator[Document]:
    """The document in the field of a JSON object, in blocks; one that is no text is counted."""
    text = value[json_field]
    if not isinstance(text, str):
        bad.add(
            f"JSON field {json_field!r} that is not text (skipped)",
            place.at(0),
            "name a text field with --json_field",
            strict,
        )
        return
    # Half a surrogate pair can be written in JSON but not in UTF-8; the round trip leaves "?" in its place.
    data = text.encode("utf-8", "replace")
    yield from _blocks_of(
        [line for line in data.replace(b"\r\n", b"\n").split(b"\n") if line and not line.isspace()]
    )


def _blocks_of(lines: list[bytes]) -> Iterator[Document]:
    """A document's lines in blocks of bounded size; a line longer than a block is cut at white space."""
    block = Document([], first=True, last=False)
    size = 0
    for line in lines:
        while len(line) > BLOCK:
            cut = cut_point(line, BLOCK)
            block.lines.append(line[:cut])
            block.cut = True
            yield block
            block, size, line = Document([], first=False, last=False), 0, line[cut:]
        if size + len(line) > BLOCK and block.lines:
            yield block
            block, size = Document([], first=False, last=False), 0
        block.lines.append(line)
        size += len(line)
    block.last = True
    if block.lines:
        yield block
