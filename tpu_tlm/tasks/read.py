"""Labelled texts from TSV, CSV, JSON lines, Parquet and CoNLL files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from tpu_tlm import filesystem
from tpu_tlm.config import strict
from tpu_tlm.config.finetune import TaskDataConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.tasks import conll


class Row(NamedTuple):
    """One labelled text as it stands in a file.

    text: the text, or its words for tagging. label: a label, a list of labels (multilabel: of the
    text, tag: of its words), a number (regress), or None where the file has no label column.
    line: its number in the file, from 1. lines: those of the words, where each has its own.
    """

    text: str | list[str]
    text2: str | None
    label: Any
    line: int
    lines: tuple[int, ...] = ()


def read_rows(path: str, task: str, columns: TaskDataConfig, *, labelled: bool = True) -> list[Row]:
    """The rows of a file, in order.

    Raises `UsageError` naming the file and line of a missing column, an empty text, a value that
    is no label of the task, or bytes that are not UTF-8.
    """
    rows = list(
        _tagged(path, columns, labelled) if task == "tag" else _texts(path, task, columns, labelled)
    )
    if not rows:
        raise UsageError(f"{path}: holds no examples")
    return rows


def _decoded(path: str) -> str:
    data = filesystem.read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}:{line}: is not UTF-8; convert the file") from None


def _records(path: str, columns: TaskDataConfig) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, values by column) of every row of a file, by its extension."""
    name = path.lower()
    if name.endswith((".jsonl", ".json", ".ndjson")):
        yield from _json_lines(path)
    elif name.endswith(".parquet"):
        yield from _parquet(path)
    elif name.endswith((".csv", ".tsv", ".txt", ".tab")):
        yield from _separated(path, "," if name.endswith(".csv") else "\t", columns.header)
    else:
        raise UsageError(
            f"{path}: its name must end with .tsv, .csv, .jsonl or .parquet (tag: or .conll), "
            "which says its format"
        )


def _json_lines(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines: a JSON string may hold U+2028 and its like.
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        if not line.strip():
            continue
        value = strict.read_json(line, f"{path}:{number}")
        if not isinstance(value, dict):
            raise UsageError(f"{path}:{number}: is not a JSON object; one object a line")
        yield number, value


def _parquet(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UsageError(f"{path}: Parquet needs pyarrow: pip install 'tpu-tlm[parquet]'") from None
    try:
        table = parquet.read_table(io.BytesIO(filesystem.read_bytes(path)))
    except Exception as error:
        raise UsageError(f"{path}: is not a Parquet file: {error}") from None
    yield from enumerate(table.to_pylist(), 1)


def _separated(path: str, separator: str, header: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    text = _decoded(path)
    # Quotes are part of the format in CSV, and of the text in TSV.
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE
    csv.field_size_limit(1 << 30)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, quoting=quoting, strict=True
    )
    names: list[str] | None = None
    begins = 1
    try:
        for values in reader:
            line, begins = begins, reader.line_num + 1
            if not values or values == [""]:
                continue
            if names is None:
                names = values if header else [str(i) for i in range(len(values))]
                if header:
                    if len(set(names)) < len(names):
                        raise UsageError(f"{path}:{line}: two columns have the same name")
                    continue
            if len(values) != len(names):
                raise UsageError(
                    f"{path}:{line}: has {len(values)} columns, line 1 has {len(names)}"
                )
            yield line, dict(zip(names, values, strict=True))
    except csv.Error as error:
        raise UsageError(
            f"{path}:{begins}: is not {'CSV' if quoting == 0 else 'TSV'}: {error}"
        ) from None


def _value(path: str, line: int, record: dict[str, Any], column: str, flag: str) -> Any:
    if column not in record:
        raise UsageError(
            f"{path}:{line}: has no column {column!r} (it has {', '.join(map(repr, record))}); "
            f"name it with {flag}"
        )
    return record[column]


def _texts(path: str, task: str, columns: TaskDataConfig, labelled: bool) -> Iterator[Row]:
    second = columns.text2 or ("text2" if task == "pair" else None)
    for line, record in _records(path, columns):
        text = _value(path, line, record, columns.text, "--text")
        text2 = _value(path, line, record, second, "--text2") if second else None
        for column, value in ((columns.text, text), (second, text2)):
            if column is not None and (not isinstance(value, str) or not value.strip()):
                what = "is empty" if value in (None, "") or isinstance(value, str) else "is no text"
                raise UsageError(f"{path}:{line}: column {column!r} {what}; leave out such rows")
        label = None
        if labelled:
            raw = _value(path, line, record, columns.label, "--label")
            label = _label(task, raw, columns, f"{path}:{line}")
        yield Row(text, text2, label, line)


def _label(task: str, raw: Any, columns: TaskDataConfig, where: str) -> Any:
    if task == "regress":
        try:
            number = float(raw)
        except (TypeError, ValueError):
            raise UsageError(f"{where}: label {raw!r} is not a number") from None
        if not math.isfinite(number):
            raise UsageError(f"{where}: label {raw!r} is not a finite number")
        return number
    if task == "multilabel":
        return [name for part in _several(raw, columns, where) if (name := str(part).strip())]
    if raw is None or isinstance(raw, list | dict) or not str(raw).strip():
        raise UsageError(f"{where}: has no label in column {columns.label!r}")
    return str(raw).strip()


def _several(raw: Any, columns: TaskDataConfig, where: str) -> list[Any]:
    """The labels of one text: a JSON list, also as the text of a cell, or text with separators."""
    if isinstance(raw, str) and raw.lstrip().startswith("["):
        raw = strict.read_json(raw, f"{where}: column {columns.label!r}")
    if raw is None:
        return []
    parts = raw if isinstance(raw, list) else str(raw).split(columns.label_separator)
    if isinstance(raw, dict) or any(
        part is None or isinstance(part, list | dict) for part in parts
    ):
        raise UsageError(f"{where}: column {columns.label!r} is no list of labels: {raw!r:.60}")
    return parts


def _tagged(path: str, columns: TaskDataConfig, labelled: bool) -> Iterator[Row]:
    """Sentences of words and tags: JSON lines with two lists, or a word a line (CoNLL)."""
    if path.lower().endswith((".jsonl", ".json", ".ndjson", ".parquet")):
        for line, record in _records(path, columns):
            words = _value(path, line, record, columns.text, "--text")
            tags = _value(path, line, record, columns.label, "--label") if labelled else None
            for column, value in ((columns.text, words), (columns.label, tags)):
                if value is None and column == columns.label and not labelled:
                    continue
                _check_list(value, column, f"{path}:{line}", columns)
            if labelled and len(words) != len(tags or ()):
                raise UsageError(
                    f"{path}:{line}: has {len(words)} words and {len(tags or ())} tags"
                )
            yield Row([str(w) for w in words], None, tags and [str(t) for t in tags], line)
        return
    text = _decoded(path)
    for found in conll.sentences(text, path, columns.text, columns.label, labelled=labelled):
        tags = found.tags if labelled else None
        yield Row(found.words, None, tags, found.lines[0], tuple(found.lines))


def _check_list(value: Any, column: str, where: str, columns: TaskDataConfig) -> None:
    """Raise `UsageError` unless a value is a list of words, or of tags."""
    if not isinstance(value, list) or not value:
        raise UsageError(
            f"{where}: {columns.text!r} and {columns.label!r} must be lists of words and tags"
        )
    for number, one in enumerate(value, 1):
        if one is None or isinstance(one, list | dict) or one == "":
            raise UsageError(f"{where}: entry {number} of {column!r} is {one!r:.40}, no text")
