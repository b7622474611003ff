"""Documents in a column of a CSV, TSV, Parquet or Arrow file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tpu_tlm.data.corpus.bad_input import BadInput
from tpu_tlm.data.corpus.inputs import InputFile
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.filesystem import is_remote, naming, open_read

_LARGEST_FIELD = 64 << 20
_ROWS = 1024  # read of a Parquet file at a time


def csv_values(
    file: InputFile, lines: Iterator[str], column: str, strict: bool, bad: BadInput
) -> Iterator[tuple[Any, str]]:
    """The fields of a column and their places (FILE:LINE), from the lines of a CSV or TSV file.

    column: a name in the first line, or a number from 1 of a file without names. Rows that lack the
    column are counted. Raises `UsageError` for a name that the first line lacks.
    """
    csv.field_size_limit(_LARGEST_FIELD)
    first = next(lines, None)
    if first is None:
        return
    delimiter = _delimiter(file.path, first)
    ended: list[bool] = []
    chained = _chained(first, lines, ended)
    if delimiter == "\t":
        rows = csv.reader(chained, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        rows = csv.reader(chained, delimiter=delimiter)
    at = int(column) - 1 if column.isdecimal() and int(column) > 0 else None
    try:
        if at is None:
            names = next(rows)
            if column not in names:
                raise UsageError(
                    f"{file.path}:1: --text_column {column}: the first line names no such column "
                    f"(it has {', '.join(names)[:200]})"
                )
            if names.count(column) > 1:
                raise UsageError(
                    f"{file.path}:1: --text_column {column}: the first line names "
                    f"{names.count(column)} such columns: rename one"
                )
            at = names.index(column)
        last = rows.line_num
        for row in rows:
            where = f"{file.path}:{rows.line_num}"
            if ended:  # the reader went on to the end of the file in search of a quote
                raise UsageError(
                    f"{file.path}:{last + 1}: is not CSV: a quoted field in this row has no end"
                )
            last = rows.line_num
            if len(row) > at:
                yield row[at], where
            elif row:
                kind = f"row without column {column} (skipped)"
                bad.add(kind, partial(str, where), "see --text_column", strict)
    except csv.Error as error:
        raise UsageError(f"{file.path}:{rows.line_num}: is not CSV: {error}") from None


def _delimiter(path: str, header: str) -> str:
    if ".tsv" in path.lower()[-8:]:
        return "\t"
    return ";" if header.count(";") > header.count(",") else ","


def _chained(first: str, rest: Iterator[str], ended: list[bool]) -> Iterator[str]:
    """All lines; `ended` gets an item when another is asked for behind the last."""
    yield first
    yield from rest
    ended.append(True)


def arrow_values(
    file: InputFile, column: str, consumed: Callable[[int], None]
) -> Iterator[tuple[Any, str]]:
    """The values of a column of a Parquet or Arrow file and their places (FILE, row from 1).

    column: a name, or `a.b` for the field b of a column a of structs. Raises `UsageError` when the
    file lacks it or is damaged.
    """
    import pyarrow

    row = reported = 0
    top, *inner = [column]
    try:
        with naming(file.path):
            source = open_read(file.path) if is_remote(file.path) else file.path
            names, count, batches = _batches(file, source)
            if column not in names:
                top, *inner = column.split(".")
            if top not in names:
                raise UsageError(
                    f"{file.path}: has no column {column!r} (it has {', '.join(names)[:200]}): "
                    "name one with --text_column"
                )
            for number, batch in enumerate(batches(top), 1):
                for value in batch.column(batch.schema.get_field_index(top)).to_pylist():
                    row += 1
                    for part in inner:
                        value = value.get(part) if isinstance(value, dict) else None
                    yield value, f"{file.path}, row {row}"
                done = file.size * number // max(count, number)
                consumed(done - reported)
                reported = done
    except pyarrow.ArrowException as error:
        reason = " ".join(str(error).split())
        raise TlmError(f"{file.path}: damaged or cut off: {reason}: make it again") from None


def _batches(file: InputFile, source: Any) -> tuple[list[str], int, Callable[[str], Iterator[Any]]]:
    """Names of columns, about how many batches there are, and a function column -> batches."""
    import pyarrow

    if file.kind == "parquet":
        from pyarrow import parquet

        table = parquet.ParquetFile(source)
        count = -(-table.metadata.num_rows // _ROWS)
        return (
            table.schema_arrow.names,
            count,
            lambda name: table.iter_batches(batch_size=_ROWS, columns=[name]),
        )
    opened = pyarrow.memory_map(source) if isinstance(source, str) else source
    if file.kind == "arrow-stream":
        stream = pyarrow.ipc.open_stream(opened)
        return stream.schema.names, 1 << 62, lambda name: iter(stream)
    reader = pyarrow.ipc.open_file(opened)
    count = reader.num_record_batches
    return (
        reader.schema.names,
        count,
        lambda name: (reader.get_batch(index) for index in range(count)),
    )
