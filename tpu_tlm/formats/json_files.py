"""JSON that other programs wrote: objects with typed, bounded values, and one-line errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from tpu_tlm import filesystem
from tpu_tlm.config import strict
from tpu_tlm.errors import TlmError, UsageError

# Larger than any real tokenizer.json or index.
_LARGEST = 256 * 2**20
T = TypeVar("T")


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `data`.

    Raises `TlmError` naming `where` when it is not such, by the rules of `strict.read_json`.
    """
    value = strict.read_json(data, where, error=TlmError, max_bytes=_LARGEST)
    return strict.mapping(value, where, error=TlmError)


def read_object(path: str) -> tuple[dict[str, Any], bytes]:
    """The JSON object in a file, and the file's bytes. Raises as `parse_object`."""
    if (size := filesystem.file_size(path)) > _LARGEST:
        raise TlmError(f"{path}: has {size:,} bytes; more than {_LARGEST:,} are not read")
    data = filesystem.read_bytes(path)
    return parse_object(data, path), data


class ConfigReader:
    """Typed values of a configuration; every method raises `UsageError` naming file and key."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def fail(self, key: str, needs: str) -> NoReturn:
        """Raise `UsageError` for a value of the wrong type or size."""
        shown = repr(self.values.get(key))
        shown = shown if len(shown) < 60 else f"{shown[:56]}..."
        raise UsageError(f"{self.where}: {key} is {shown}; {needs}")

    def size(
        self, *keys: str, high: int, low: int = 1, default: int | None = None, null: bool = False
    ) -> int:
        """A whole number under the first of `keys` that is there.

        `default`: the value of a missing key (None: the key is required); `null`: null counts
        as missing.
        """
        key = next((k for k in keys if k in self.values), keys[0])
        if default is not None and (key not in self.values or (null and self.values[key] is None)):
            return default
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fail(key, f"a whole number from {low} to {high} is needed")
        return value

    def number(self, key: str, default: float, *, low: float = 0.0, high: float = 1.0) -> float:
        """A finite number in [low, high]; null counts as missing."""
        value = self.values.get(key)
        if value is None:
            return default
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not low <= value <= high:
            self.fail(key, f"a number from {low:g} to {high:g} is needed")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false; null counts as missing."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(key, "true or false is needed")
        return value

    def text(self, key: str, default: str = "") -> str:
        """A string; null counts as missing."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.fail(key, "a string is needed")
        return value

    def choice(self, key: str, default: str, choices: Mapping[str, T]) -> T:
        """What `choices` has for the string under `key`."""
        value = self.values.get(key, default)
        if not isinstance(value, str) or value not in choices:
            self.fail(key, f"supported are {', '.join(choices)}")
        return choices[value]

    def only(self, key: str, value: Any) -> None:
        """Require that a setting that changes the numbers has the one supported value."""
        found = self.values.get(key)
        if found is not None and (
            found != value or isinstance(found, bool) != isinstance(value, bool)
        ):
            self.fail(key, f"only {value!r} is supported")

    def token(self, key: str, vocab_size: int, default: int | None = None) -> int | None:
        """A token id below `vocab_size`, or None where the configuration names none."""
        value = self.values.get(key, default)
        if value is None:
            return None
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab_size:
            self.fail(key, f"a token id below {vocab_size} is needed")
        return value
