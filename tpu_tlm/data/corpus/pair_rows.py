"""Corpora of pairs: parts of files -> conversations, documents or rows, as groups of texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from tpu_tlm.data.corpus.bad_input import BadInput
from tpu_tlm.data.corpus.blank_lines import is_invisible
from tpu_tlm.data.corpus.byte_blocks import BLOCK, Cut, raw_blocks
from tpu_tlm.data.corpus.documents import (
    LARGEST_JSON_LINE,
    Place,
    checked_lines,
    field_bytes,
    is_sound,
    json_object,
    json_value,
)
from tpu_tlm.data.corpus.documents import raw_lines as _raw_lines
from tpu_tlm.data.corpus.inputs import InputFile, Part, Slice
from tpu_tlm.errors import UsageError

END_OF_TURN = b"<EOU>"
# A sentence ends with its mark, and what closes after it, before white space.
_SENTENCE_END = re.compile(rb"(?:[.!?]|\xe2\x80\xa6)(?:[\"')\]]|\xe2\x80[\x99\x9d])*\s+")


class Group(NamedTuple):
    """Texts that belong together: turns of a conversation, sentences of a document, a row's two.

    `every`: each text answers those before it; else only the last one does. `first`: a new
    conversation, document or row begins (else it is the rest of one that was too large). `where`:
    gives its file and line.
    """

    texts: list[bytes]
    every: bool
    first: bool
    where: Callable[[], str]


class RowRule(NamedTuple):
    """How files are read.

    `kind`: ntp, nsp or tsv; `columns`: of a row, numbers from 1 or names, for ntp the field of the
    turns; empty: 1 and 2 of columns, x and y of fields, turns. `format` (of ntp's plain text):
    table, turns, or auto, which decides by the first block of each file.
    """

    kind: str
    columns: tuple[str, ...]
    json_field: str
    strict: bool
    format: str = "auto"


def read_groups(
    part: Part, rule: RowRule, bad: BadInput, consumed: Callable[[int], None]
) -> Iterator[Group]:
    """The groups of one part, in order, in constant memory.

    What cannot be used is counted in `bad` by file and line. Raises `UsageError` naming file and
    line for bad input under `strict`, or for a file without a column asked for by name; `TlmError`
    for a damaged compressed file.
    """
    for piece in part.slices:
        known, groups = sum(bad.counts.values()), 0
        for group in _reader(piece, rule)(piece, rule, bad, consumed):
            groups += 1
            yield group
        whole = piece.end - piece.start == piece.file.size
        if whole and not groups and known == sum(bad.counts.values()):
            bad.add("empty file", partial(str, piece.file.path), "remove it", rule.strict)


def _reader(
    piece: Slice, rule: RowRule
) -> Callable[[Slice, RowRule, BadInput, Callable[[int], None]], Iterator[Group]]:
    if piece.file.kind not in ("text", "json"):
        raise UsageError(f"{piece.file.path}: pairs are read from plain text and JSON lines only")
    if piece.file.kind == "json":
        return {"ntp": _json_turns, "nsp": _json_documents, "tsv": _json_rows}[rule.kind]
    if rule.kind == "tsv":
        return _columns
    if rule.kind == "ntp" and is_table(piece.file, rule.format):
        return _answers
    return _paragraphs


def is_table(file: InputFile, format: str) -> bool:
    """Whether a file has rows of query, tab, response rather than a turn a line.

    `format` "auto": by the lines of its first MiB; those with one tab must be at least as many as
    the others.
    """
    if format != "auto":
        return format == "table"
    lines = _first_lines(file)
    return 2 * sum(line.count(b"\t") == 1 for line in lines) >= max(1, len(lines))


def _first_lines(file: InputFile) -> list[bytes]:
    """The lines of a file's first MiB that are not blank."""
    whole = Cut(file.size if file.can_be_cut else -1, True, False)
    block, _ = next(
        raw_blocks(Slice(file, 0, file.size), Cut(0, True, False), whole, lambda count: None),
        (b"", True),
    )
    return [line.removesuffix(b"\r") for line in block.split(b"\n") if line.strip()]


def first_line(file: InputFile) -> bytes:
    """A file's first line that is not blank, which may have the names of columns."""
    return next(iter(_first_lines(file)), b"")


def _lines(
    piece: Slice, rule: RowRule, bad: BadInput, consumed: Callable[[int], None]
) -> Iterator[tuple[bytes, Place]]:
    """Lines without their ends, checked; blank ones are empty."""
    for line, too_long, place in _raw_lines(piece, consumed):
        if too_long:
            bad.add(
                f"line over {LARGEST_JSON_LINE >> 20} MiB (left out)",
                place.at(0),
                "split the text",
                rule.strict,
            )
            continue
        if not is_sound(line):
            line = checked_lines([line], place, rule.strict, bad)[0]
        line = line.strip(b"\r")
        if b"\r" in line:
            bad.add(
                "carriage return inside a line (read as white space)",
                place.at(0),
                "end every line with a line feed",
                rule.strict,
            )
        yield b"" if is_invisible(line) else line, place


def _flat(text: str, place: Place, rule: RowRule, bad: BadInput) -> bytes:
    """A field's text as one line in UTF-8; what is repaired in it is counted."""
    return field_bytes(" ".join(text.split()), place.at(0), rule.strict, bad)


def _sentences(line: bytes) -> list[bytes]:
    cuts = [0, *(match.end() for match in _SENTENCE_END.finditer(line)), len(line)]
    return [line[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True) if line[a:b].strip()]


def turns_in(query: bytes) -> list[bytes]:
    """The turns of a query, whose history is joined by `<EOU>`."""
    return (
        [turn for turn in query.split(END_OF_TURN) if turn.strip()] or [query]
        if END_OF_TURN in query
        else [query]
    )


def _columns(
    piece: Slice, rule: RowRule, bad: BadInput, consumed: Callable[[int], None]
) -> Iterator[Group]:
    """Rows of columns divided by tabs; with columns by name the file's first line has the names."""
    columns = rule.columns or ("1", "2")
    named = not all(name.isdigit() for name in columns)
    heading = first_line(piece.file)
    if named:
        names = [name.strip() for name in heading.decode("utf-8", "replace").split("\t")]
        if missing := [name for name in columns if name not in names]:
            raise UsageError(
                f"{piece.file.path}:1: --pair_columns {missing[0]}: "
                f"the first line names no such column (it has {names})"
            )
        if twice := [name for name in columns if names.count(name) > 1]:
            raise UsageError(
                f"{piece.file.path}:1: --pair_columns {twice[0]}: the first line names "
                f"{names.count(twice[0])} such columns: rename one"
            )
        at = [names.index(name) for name in columns]
    else:
        at = [int(name) - 1 for name in columns]
    for line, place in _lines(piece, rule, bad, consumed):
        if not line or (named and line == heading):
            continue
        fields = line.split(b"\t")
        if len(fields) <= max(at):
            kind = f"row without column {max(at) + 1}, as tabs divide it (left out)"
            bad.add(kind, place.at(0), "divide columns by tabs; see --pair_columns", rule.strict)
            continue
        if not rule.columns and len(fields) > len(at):
            kind = f"row of more than {len(at)} columns (the first {len(at)} are read)"
            bad.add(kind, place.at(0), "name the two with --pair_columns", rule.strict)
        texts = [fields[i] for i in at]
        if not all(text.strip() for text in texts):
            bad.add(
                "row with an empty column (left out)",
                place.at(0),
                "fill it or remove the row",
                rule.strict,
            )
            continue
        yield Group(texts, False, True, place.at(0))


def _answers(
    piece: Slice, rule: RowRule, bad: BadInput, consumed: Callable[[int], None]
) -> Iterator[Group]:
    """Rows of a query, a tab and a response; the query's turns are joined by `<EOU>`."""
    for line, place in _lines(piece, rule, bad, consumed):
        if not line:
            continue
        query, *responses = line.split(b"\t")
        if len(responses) != 1:
            kind = f"line with {'several tabs' if responses else 'no tab'} (left out)"
            bad.add(kind, place.at(0), "write the query, one tab and the response", rule.strict)
            continue
        turns = turns_in(query)
        if not (turns and all(text.strip() for text in (*turns, *responses))):
            bad.add(
                "row with an empty column (left out)",
                place.at(0),
                "fill it or remove the row",
                rule.strict,
            )
            continue
        yield Group([*turns, *responses], False, True, place.at(0))


def _paragraphs(
    piece: Slice, rule: RowRule, bad: BadInput, consumed: Callable[[int], None]
) -> Iterator[Group]:
    """Runs of lines up to a blank one.

    They are turns of a conversation (ntp), or a document, whose lines end sentences (nsp).
    """
    texts: list[bytes] = []
    size, first, where = 0, True, None
    for line, place in _lines(piece, rule, bad, consumed):
        if line:
            where = where or place.at(0)
            if rule.kind == "ntp" and b"\t" in line:
                bad.add(
                    "tab in a turn of a conversation (read as white space)",
                    place.at(0),
                    "for rows of query, tab, response give --pairs_format table",
                    rule.strict,
                )
                line = line.replace(b"\t", b" ")
            texts += [line] if rule.kind == "ntp" else _sentences(line)
            size += len(line)
        if where and (not line or size >= BLOCK):
            yield from _checked(Group(texts, True, first, where), rule, bad)
            texts, size, first, where = [], 0, not line, None
        elif not line:
            first = True
    if where:
        yield from _checked(Group(texts, True, first, where), rule, bad)


def _checked(group: Group, rule: RowRule, bad: BadInput) -> Iterable[Group]:
    """The group, if there is an answer in it; a document of one sentence is cut between words."""
    if rule.kind == "ntp" and len(group.texts) < 2:
        bad.add(
            "conversation of one turn (left out)",
            group.where,
            "a pair needs two turns",
            rule.strict,
        )
        return ()
    return (group,)


def _json_turns(
    piece: Slice, rule: RowRule, bad: BadInput, consumed: Callable[[int], None]
) -> Iterator[Group]:
    """Objects with a list of turns."""
    (field,) = rule.columns or ("turns",)
    for line, too_long, place in _raw_lines(piece, consumed):
        value = json_object(line, too_long, field, place, rule.strict, bad, "--pair_columns")
        if value is None:
            continue
        turns = json_value(value, field)
        if not (isinstance(turns, list) and all(isinstance(turn, str) for turn in turns)):
            bad.add(
                f"JSON field {field!r} that is no list of texts (skipped)",
                place.at(0),
                "write a list of strings",
                rule.strict,
            )
            continue
        texts = [flat for turn in turns if (flat := _flat(turn, place, rule, bad))]
        yield from _checked(Group(texts, True, True, place.at(0)), rule, bad)


def _json_rows(
    piece: Slice, rule: RowRule, bad: BadInput, consumed: Callable[[int], None]
) -> Iterator[Group]:
    """Objects with a field for each text."""
    columns = rule.columns or ("x", "y")
    for line, too_long, place in _raw_lines(piece, consumed):
        value = json_object(line, too_long, columns[0], place, rule.strict, bad, "--pair_columns")
        if value is None:
            continue
        if missing := [name for name in columns if not isinstance(json_value(value, name), str)]:
            kind = f"JSON line without text in the field {missing[0]!r} (skipped)"
            bad.add(kind, place.at(0), "name the fields with --pair_columns", rule.strict)
            continue
        texts = [_flat(json_value(value, name), place, rule, bad) for name in columns]
        if not all(texts):
            bad.add(
                "row with an empty column (left out)",
                place.at(0),
                "fill it or remove the row",
                rule.strict,
            )
            continue
        yield Group(texts, False, True, place.at(0))


def _json_documents(
    piece: Slice, rule: RowRule, bad: BadInput, consumed: Callable[[int], None]
) -> Iterator[Group]:
    """Objects with a document's text."""
    for line, too_long, place in _raw_lines(piece, consumed):
        value = json_object(line, too_long, rule.json_field, place, rule.strict, bad)
        if value is None:
            continue
        text = json_value(value, rule.json_field)
        if not isinstance(text, str):
            kind = f"field {rule.json_field!r} that is not text (skipped)"
            bad.add(kind, place.at(0), "name a text field with --json_field", rule.strict)
            continue
        lines = [_flat(line, place, rule, bad) for line in text.split("\n") if line.strip()]
        texts = [sentence for line in lines for sentence in _sentences(line)]
        if texts:
            yield Group(texts, True, True, place.at(0))
