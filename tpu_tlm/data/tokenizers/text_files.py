"""Tokenizer files as text: UTF-8 with or without a mark."""

from __future__ import annotations

from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.config import strict
from tpu_tlm.errors import UsageError

BOM = b"\xef\xbb\xbf"
_LARGEST = 256 << 20  # bytes of a JSON file, more than any real tokenizer.json
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def text_of(data: bytes, name: str) -> str:
    """The text of a file, without a byte-order mark; `UsageError` naming file and line."""
    if data.startswith(_UTF16):
        raise UsageError(f"{name}: is UTF-16 text: convert it with iconv -f UTF-16 -t UTF-8")
    data = data.removeprefix(BOM)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}:{data[: error.start].count(10) + 1}: is not UTF-8") from None


def lines_of(data: bytes, name: str) -> list[str]:
    """The lines of a file with any line ends; the last may lack its end."""
    lines = with_line_feeds(text_of(data, name)).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def with_line_feeds(text: str) -> str:
    """A text whose lines end with line feeds, not with carriage returns (and line feeds)."""
    if "\r" not in text:
        return text
    return text.replace("\r\n", "\n") if "\n" in text else text.replace("\r", "\n")


def json_of(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in a file; `UsageError` when it is none."""
    return strict.mapping(strict.read_json(data, name, max_bytes=_LARGEST), name)


def json_at(path: str) -> dict[str, Any]:
    """The JSON object in a file; {} where there is no file. Raises `UsageError` as `json_of`."""
    return json_of(filesystem.read_bytes(path), path) if filesystem.exists(path) else {}
