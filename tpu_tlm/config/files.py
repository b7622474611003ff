"""Configuration files: options from YAML text and to it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

from tpu_tlm.config.options import options_of
from tpu_tlm.config.resolve import Source, canonical, translated
from tpu_tlm.config.strict import mapping, read_yaml
from tpu_tlm.errors import UsageError
from tpu_tlm.filesystem.regular import open_regular

# A file of options is small; a larger one is another file.
_MAX_BYTES = 1 << 20


def load_values(path: str | os.PathLike[str], classes: Sequence[type]) -> dict[str, Any]:
    """Option name -> value of a YAML file, local or gs://; the values are not checked yet.

    Raises `UsageError` naming file and key for what is no mapping of options of these groups.
    """
    where = os.fspath(path)
    return values_in(_read(where), where, classes)


def values_in(data: bytes | str, where: str, classes: Sequence[type]) -> dict[str, Any]:
    """The same from the content of a file."""
    loaded = read_yaml(data, where, max_bytes=_MAX_BYTES)
    source = translated(classes, Source(mapping(loaded, where), where), {})
    given = canonical(source, options_of(classes))
    return {name: value for name, (value, _) in given.items()}


def _read(path: str) -> bytes:
    if "://" in path:
        from tpu_tlm import filesystem

        return filesystem.read_bytes(path)
    try:
        with open_regular(path) as file:
            return file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        fault = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: cannot be read: {fault}") from None


def dump(*parts: Any) -> str:
    """YAML text of option groups, each under its title as a comment; `load_values` reads it."""
    lines: list[str] = []
    for part in parts:
        lines.append(f"# {(type(part).__doc__ or type(part).__name__).strip().splitlines()[0]}")
        for field in dataclasses.fields(part):
            # JSON scalars and lists are YAML too, and quote what needs quoting.
            value = json.dumps(getattr(part, field.name), ensure_ascii=False)
            lines.append(f"{field.name}: {value}")
    return "\n".join(lines) + "\n"
