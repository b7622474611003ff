"""Corpora: parts of text files -> documents of lines, in blocks of bounded size."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tpu_tlm.data.corpus.bad_input import BadInput
from tpu_tlm.data.corpus.blank_lines import LEADS, is_blank, is_invisible
from tpu_tlm.data.corpus.byte_blocks import BLOCK, cut_point, part_range, raw_blocks
from tpu_tlm.data.corpus.inputs import InputFile, Part, Slice, expand_inputs, plan_parts
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


# Where a document of plain text ends: at a blank line, at each line end, at the end of the file.
DOCUMENTS = ("blank-line", "line", "file")


@dataclass(slots=True)
class Document:
    """A document, or a block of a large one: UTF-8 lines without their line ends.

    Blank lines are left out. `first` and `last` say whether the block begins and ends its document
    (a block may have no lines and only end it). `cut` says that the last line goes on as the first
    line of the next block (b"" when only its end was missing), so nothing that belongs to a line's
    end may follow it here.
    """

    lines: list[bytes]
    first: bool = True
    last: bool = True
    cut: bool = False


def read_part(
    part: Part,
    json_field: str = "text",
    strict: bool = False,
    bad: BadInput | None = None,
    consumed: Callable[[int], None] | None = None,
    document: str = "blank-line",
    text_column: str | None = None,
) -> Iterator[Document]:
    """The documents of one part, in order, in constant memory.

    Plain text: a document ends as `document` says (one of `DOCUMENTS`); JSON lines: a document is
    the text of one line; tables: of one row's `text_column`. Bytes that are not UTF-8 become U+FFFD
    and their line is counted in `bad`; empty files and JSON lines without the field are counted.
    `consumed` is called with the number of bytes read since the call before. Raises `UsageError`
    naming file and line for bad input under `strict`, `TlmError` for a damaged compressed file.
    """
    counts = bad if bad is not None else BadInput()
    report = consumed or (lambda count: None)
    for piece in part.slices:
        known, documents = sum(counts.counts.values()), 0
        if piece.file.kind == "json":
            found = _read_json(piece, json_field, strict, counts, report)
        elif piece.file.kind == "text":
            found = _read_plain(piece, document, strict, counts, report)
        else:
            found = _read_table(piece, text_column or json_field, strict, counts, report)
        for block in found:
            documents += 1
            yield block
        whole = piece.end - piece.start == piece.file.size
        if whole and not documents and known == sum(counts.counts.values()):
            counts.add("empty file", partial(str, piece.file.path), "remove it", strict)


class Place:
    """File and line of what is being read.

    Lines before a part that starts inside a file are counted only when a place is asked for.
    """

    def __init__(self, piece: Slice, start: int) -> None:
        self.path = piece.file.path
        self.start = start
        self.line = 0
        self._line_end = piece.file.line_end.encode()
        self._before: int | None = None

    def at(self, extra: int) -> Callable[[], str]:
        """A function that gives FILE:LINE of the line `extra` lines after the one being read."""
        line = self.line + extra + 1
        return lambda: f"{self.path}:{self._lines_before() + line}"

    def _lines_before(self) -> int:
        if self._before is None:
            self._before, left = 0, self.start
            if left:
                with naming(self.path), open_read(self.path) as stream:
                    while left > 0 and (data := stream.read(min(BLOCK, left))):
                        self._before += data.count(self._line_end)
                        left -= len(data)
        return self._before


def checked_lines(lines: list[bytes], place: Place, strict: bool, bad: BadInput) -> list[bytes]:
    """The lines with undecodable bytes replaced and NUL bytes removed; each bad line is counted."""
    checked = []
    for number, line in enumerate(lines):
        if b"\0" in line:
            bad.add("NUL bytes (removed)", place.at(number), "remove them", strict)
            line = line.replace(b"\0", b"")
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
        checked.append(line)
    return checked


def is_sound(block: bytes) -> bool:
    """Whether a block is UTF-8 without NUL bytes."""
    if b"\0" in block:
        return False
    if block.isascii():
        return True
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _without_returns(lines: list[bytes], place: Place, strict: bool, bad: BadInput) -> list[bytes]:
    """Lines without the carriage return of their ends; one inside a line is counted."""
    lines = [line.removesuffix(b"\r") for line in lines]
    for number, line in enumerate(lines):
        if b"\r" in line:
            bad.add(
                "carriage return inside a line (read as white space)",
                place.at(number),
                "end every line with a line feed",
                strict,
            )
    return lines


def _read_plain(
    piece: Slice, document: str, strict: bool, bad: BadInput, consumed: Callable[[int], None]
) -> Iterator[Document]:
    """Plain text: documents end as `document` says, and at the end of the file."""
    start, end = part_range(piece, document)
    place = Place(piece, start.offset)
    block_out = Document([], first=start.is_document)
    size = 0
    in_line = start.in_line  # the line being read has given text to an earlier block
    by_line, by_blank = document == "line", document == "blank-line"
    for block, ends_line in raw_blocks(piece, start, end, consumed):
        lines = block.split(b"\n")
        if ends_line:
            lines.pop()
        if not is_sound(block):
            lines = checked_lines(lines, place, strict, bad)
        if b"\r" in block:
            lines = _without_returns(lines, place, strict, bad)
        place.line += block.count(b"\n")
        last_index = len(lines) - 1
        for index, line in enumerate(lines):
            cut = index == last_index and not ends_line
            if line and (line[0] not in LEADS or not is_invisible(line)):
                block_out.lines.append(line)
                size += len(line)
            elif in_line:
                if not cut:
                    block_out.lines.append(b"")
            else:
                ends = by_blank and not cut and (not line or is_blank(line))
                if ends and (block_out.lines or not block_out.first):
                    yield block_out
                    block_out, size = Document([]), 0
                continue
            in_line = cut
            if by_line and not cut:
                yield block_out
                block_out, size = Document([]), 0
        if block_out.lines and (in_line or size >= BLOCK):
            yield Document(block_out.lines, block_out.first, False, in_line)
            block_out, size = Document([], first=False), 0
    block_out.last = end.is_document
    if block_out.lines or (block_out.last and not block_out.first):
        yield block_out


def raw_lines(piece: Slice, consumed: Callable[[int], None]) -> Iterator[tuple[bytes, bool, Place]]:
    """The lines of a slice, whether each is longer than `LARGEST_JSON_LINE`, and the place.

    A line that is too long is not whole.
    """
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
    """The object in one JSON line, which has the field; None for a blank or a bad line.

    A bad line is counted.
    """
    if too_long:
        bad.add(
            f"JSON line over {LARGEST_JSON_LINE >> 20} MiB (skipped)",
            place.at(0),
            "split the document",
            strict,
        )
        return None
    if is_blank(line):
        return None
    if not is_sound(line):
        line = checked_lines([line], place, strict, bad)[0]
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        what = "line that is not JSON (skipped)"
        if line.strip() in (b"[", b"{"):
            what = "JSON that is written over several lines, not one object a line (skipped)"
        bad.add(what, place.at(0), "write one JSON object a line", strict)
        return None
    if not isinstance(value, dict):
        what = "an array" if isinstance(value, list) else "a bare value"
        bad.add(
            f"JSON line that is {what}, not an object (skipped)",
            place.at(0),
            "write one JSON object a line",
            strict,
        )
        return None
    if json_value(value, json_field) is MISSING:
        bad.add(
            f"JSON line without the field {json_field!r} (skipped)",
            place.at(0),
            f"name the field with {flag}",
            strict,
        )
        return None
    return value


MISSING = object()


def json_value(value: dict[str, Any], name: str) -> Any:
    """The field of that name, or for `a.b` the field b of the object in a; else `MISSING`."""
    if name in value:
        return value[name]
    found: Any = value
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            return MISSING
        found = found[part]
    return found


def _read_json(
    piece: Slice, json_field: str, strict: bool, bad: BadInput, consumed: Callable[[int], None]
) -> Iterator[Document]:
    """JSON lines: every line is an object whose field holds a document."""
    for line, too_long, place in raw_lines(piece, consumed):
        value = json_object(line, too_long, json_field, place, strict, bad)
        if value is not None:
            text = json_value(value, json_field)
            yield from text_document(text, json_field, place.at(0), strict, bad)


def _read_table(
    piece: Slice, column: str, strict: bool, bad: BadInput, consumed: Callable[[int], None]
) -> Iterator[Document]:
    """A table: every row has a document in a column."""
    from tpu_tlm.data.corpus.tables import arrow_values, csv_values

    if piece.file.kind == "csv":
        values = csv_values(
            piece.file, _csv_lines(piece, strict, bad, consumed), column, strict, bad
        )
    else:
        values = arrow_values(piece.file, column, consumed)
    for text, where in values:
        yield from text_document(text, column, partial(str, where), strict, bad)


def _csv_lines(
    piece: Slice, strict: bool, bad: BadInput, consumed: Callable[[int], None]
) -> Iterator[str]:
    for line, _, place in raw_lines(piece, consumed):
        if not is_sound(line):
            line = checked_lines([line], place, strict, bad)[0]
        yield line.decode() + "\n"


def text_document(
    text: Any, name: str, where: Callable[[], str], strict: bool, bad: BadInput
) -> Iterator[Document]:
    """The document in a field, in blocks; a value that is blank or no text is counted."""
    if not isinstance(text, str):
        bad.add(
            f"field {name!r} that is not text (skipped)",
            where,
            "name a text field with --json_field or --text_column",
            strict,
        )
        return
    data = field_bytes(text, where, strict, bad)
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    seen = [line for line in lines if not is_invisible(line)]
    if not seen:
        bad.add(f"field {name!r} of blank text (skipped)", where, "fill it or remove it", strict)
    yield from _blocks_of(seen)


def field_bytes(text: str, where: Callable[[], str], strict: bool, bad: BadInput) -> bytes:
    """A field's text in UTF-8, without NUL characters; what is repaired is counted.

    JSON can write half a surrogate pair, which UTF-8 cannot: it becomes "?".
    """
    if "\0" in text:
        bad.add("NUL bytes (removed)", where, "remove them", strict)
        text = text.replace("\0", "")
    try:
        return text.encode()
    except UnicodeEncodeError:
        kind = "half a surrogate pair, which is no character (replaced)"
        bad.add(kind, where, "write the character itself, or both halves", strict)
        return text.encode("utf-8", "replace")


def _blocks_of(lines: list[bytes]) -> Iterator[Document]:
    """A document's lines in blocks of bounded size; a longer line is cut at white space."""
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
