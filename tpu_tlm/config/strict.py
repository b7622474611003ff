"""Strict readers of YAML and JSON for every file of the package: bounded, and one line per fault.

Both return plain values only: None, bool, int, finite float, str, list, dict with text keys.
Duplicate keys, non-finite numbers, deep nesting, text that is not UTF-8 and, in YAML, aliases,
tags and dates are refused. The error names the file and, where there is one, the key.
"""

from __future__ import annotations

import collections
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, TypeVar

from tpu_tlm.errors import TlmError, UsageError

MAX_BYTES = 64 << 20
MAX_DEPTH = 32
_DIGITS = 40
_MISSING = object()

V = TypeVar("V", bool, int, float, str, list, dict)

_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)$|[-+]?0x[0-9a-fA-F_]+$")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class _Fault(Exception):
    """A fault at a path of keys; the callers turn it into their own kind of error."""


def read_yaml(
    data: bytes | str,
    where: str,
    *,
    error: type[TlmError] = UsageError,
    max_bytes: int = MAX_BYTES,
    max_depth: int = MAX_DEPTH,
) -> Any:
    """The value of one YAML document; None for an empty one.

    where: the file, as the error names it; error: the class that is raised. YAML 1.1 as PyYAML
    reads it, less what configuration files need not have: aliases and anchors, tags, merge keys,
    dates, base-60 and octal numbers, infinities, several documents.
    """
    import yaml

    text = _text(data, where, error, max_bytes)
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _YamlReader(yaml, loader, text, max_depth).document()
    except yaml.MarkedYAMLError as fault:
        line = f"line {fault.problem_mark.line + 1}: " if fault.problem_mark else ""
        raise error(f"{where}: {line}is not YAML: {fault.problem or fault.context}") from None
    except yaml.YAMLError as fault:
        raise error(f"{where}: is not YAML: {' '.join(str(fault).split())}") from None
    except _Fault as fault:
        raise error(f"{where}: {fault}") from None


def read_json(
    data: bytes | str,
    where: str,
    *,
    error: type[TlmError] = UsageError,
    max_bytes: int = MAX_BYTES,
    max_depth: int = MAX_DEPTH,
) -> Any:
    """The value of a JSON text (RFC 8259; no NaN, no Infinity, no lone surrogates).

    where: the file, as the error names it; error: the class that is raised.
    """
    text = _text(data, where, error, max_bytes)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_not_finite,
            parse_float=_finite,
            parse_int=_whole,
        )
        _check_depth(value, max_depth)
        if _SURROGATE.search(text):
            _check_text(value)
        return value
    except json.JSONDecodeError as fault:
        raise error(f"{where}: line {fault.lineno}: is not JSON: {fault.msg}") from None
    except RecursionError:
        raise error(f"{where}: is nested more than {max_depth} deep") from None
    except _Fault as fault:
        raise error(f"{where}: {fault}") from None


def mapping(value: Any, where: str, *, error: type[TlmError] = UsageError) -> dict[str, Any]:
    """The value, if it is a mapping; raises `error` otherwise."""
    if not isinstance(value, dict):
        raise error(f"{where}: must hold a mapping of names to values, not {kind_of(value)}")
    return value


def entry(
    values: Mapping[str, Any],
    key: str,
    kind: type[V],
    where: str,
    *,
    default: Any = _MISSING,
    minimum: float | None = None,
    maximum: float | None = None,
    error: type[TlmError] = UsageError,
) -> V:
    """`values[key]`, checked: of type `kind` and within inclusive bounds.

    A whole number counts as a float; a bool is no number. Without `default` the key is required;
    a `default` is also given for a value of None. Raises `error` naming file and key.
    """
    value = values.get(key)
    if value is None:
        if default is _MISSING:
            raise error(f"{where}: {key} is missing")
        return default
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise error(f"{where}: {key} is too large a number") from None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise error(f"{where}: {key} must be {_KINDS[kind]}, not {kind_of(value)}")
    if minimum is not None and value < minimum:  # type: ignore[operator]
        raise error(f"{where}: {key} is {value}; it must be at least {minimum}")
    if maximum is not None and value > maximum:  # type: ignore[operator]
        raise error(f"{where}: {key} is {value}; it must be at most {maximum}")
    return value


_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


def kind_of(value: Any) -> str:
    """A value's kind in words, with the value where it is short."""
    if value is None:
        return "nothing"
    if isinstance(value, list | dict):
        return _KINDS[type(value)]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _text(data: bytes | str, where: str, error: type[TlmError], max_bytes: int) -> str:
    if len(data) > max_bytes:
        raise error(f"{where}: has {len(data):,} bytes; at most {max_bytes:,} are read")
    if isinstance(data, str):
        text = data
    else:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise error(f"{where}: is UTF-16; save it as UTF-8")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as fault:
            line = data[: fault.start].count(b"\n") + 1
            raise error(f"{where}: line {line}: is not UTF-8; save it as UTF-8") from None
    if "\x00" in text:
        line = text[: text.index("\x00")].count("\n") + 1
        raise error(f"{where}: line {line}: has a NUL character, so it is no text")
    return text


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


class _YamlReader:
    """Values from a stream of parser events; the parser itself does not recurse."""

    def __init__(self, yaml: Any, loader: Any, text: str, max_depth: int) -> None:
        self._yaml, self._max_depth = yaml, max_depth
        self._events: Iterator[Any] = yaml.parse(text, Loader=loader)
        self._resolver = yaml.SafeLoader("")

    def document(self) -> Any:
        yaml = self._yaml
        next(self._events)  # the start of the stream
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), "", 0)
        next(self._events)  # the end of the document
        if not isinstance(event := next(self._events), yaml.StreamEndEvent):
            self._fail(event, "", "holds a second document")
        return value

    def _fail(self, event: Any, path: str, fault: str) -> NoReturn:
        line = f"line {event.start_mark.line + 1}: " if event.start_mark else ""
        raise _Fault(f"{line}{f'{path}: ' if path else ''}{fault}")

    def _value(self, event: Any, path: str, depth: int) -> Any:
        yaml = self._yaml
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            self._fail(event, path, "anchors (&) and aliases (*) are not read; write it out")
        if event.tag is not None and event.tag != "!":
            self._fail(event, path, f"the tag {event.tag[:40]} is not read")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if depth >= self._max_depth:
            self._fail(event, "", f"is nested more than {self._max_depth} deep")
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self._value(event, f"{path}[{len(items)}]", depth + 1))
            return items
        values: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._value(event, path, depth + 1) if self._is_key(event) else None
            if not isinstance(key, str):
                self._fail(event, path, "a key must be text; quote it")
            if key in values:
                self._fail(event, path, f"the key {key!r} stands there twice")
            values[key] = self._value(next(self._events), _join(path, key), depth + 1)
        return values

    def _is_key(self, event: Any) -> bool:
        return isinstance(event, self._yaml.ScalarEvent | self._yaml.AliasEvent)

    def _scalar(self, event: Any, path: str) -> Any:
        text: str = event.value
        if not event.implicit[0]:
            return text
        kind = self._resolver.resolve(self._yaml.ScalarNode, text, (True, False)).rsplit(":", 1)[1]
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in ("yes", "true", "on")
        if kind == "int":
            if not _INT.match(text):
                self._fail(event, path, f"{text[:40]} is an ambiguous number; quote it")
            if len(text) > _DIGITS:
                self._fail(event, path, f"{text[:20]}... is too large a number")
            return int(text.replace("_", ""), 0)
        if kind == "float":
            if ":" in text:
                self._fail(event, path, f"{text[:40]} is an ambiguous number; quote it")
            return self._finite(event, path, text)
        if kind in ("timestamp", "merge"):
            what = "a date" if kind == "timestamp" else "a merge key"
            self._fail(event, path, f"{text[:40]} is {what}, which is not read; quote it")
        return text

    def _finite(self, event: Any, path: str, text: str) -> float:
        plain = text.lower().replace("_", "")
        value = math.inf if plain.endswith(("inf", "nan")) else float(plain)
        if not math.isfinite(value):
            self._fail(event, path, f"{text[:40]} is not a finite number")
        return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        [(twice, _)] = collections.Counter(key for key, _ in pairs).most_common(1)
        raise _Fault(f"the key {twice!r} stands there twice")
    return values


def _not_finite(text: str) -> NoReturn:
    raise _Fault(f"{text} is not a finite number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _not_finite(text[:40])
    return value


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise _Fault(f"{text[:20]}... is too large a number")
    return int(text)


def _nested(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _check_depth(value: Any, most: int) -> None:
    level, depth = [value], 0
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        if depth > most:
            raise _Fault(f"is nested more than {most} deep")
        level = [inner for outer in level for inner in _nested(outer)]


def _check_text(value: Any) -> None:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        texts = one if isinstance(one, dict) else [one] if isinstance(one, str) else []
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError:
                raise _Fault(f"{text[:40]!r} holds half a character (a lone surrogate)") from None
        waiting.extend(_nested(one))
