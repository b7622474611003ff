"""Options: dataclass fields become flags and configuration keys; both are checked, nothing unknown passes."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tpu_tlm.errors import UsageError

T = TypeVar("T")


def opt(
    default: Any,
    help: str,  # noqa: A002 - the field's own word, as in argparse
    *,
    unit: str = "",
    choices: Sequence[str] | None = None,
    aliases: Sequence[str] = (),
    required: bool = False,
    positional: bool = False,
) -> Any:
    """A dataclass field that is an option: default, meaning, unit, choices, other spellings of the flag; or a positional argument."""
    metadata = {
        "help": help,
        "unit": unit,
        "choices": choices,
        "aliases": tuple(aliases),
        "required": required or positional,
        "positional": positional,
    }
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What a field's annotation asks of its value."""

    base: type
    many: bool
    optional: bool


def _kind(annotation: Any) -> _Kind:
    optional = False
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        members = [a for a in typing.get_args(annotation) if a is not type(None)]
        optional = len(members) != len(typing.get_args(annotation))
        annotation = members[0]
    if typing.get_origin(annotation) is list:
        return _Kind(typing.get_args(annotation)[0], True, optional)
    return _Kind(annotation, False, optional)


def _convert_one(kind: _Kind, value: Any, name: str) -> Any:
    if kind.base is bool:
        if isinstance(value, bool):
            return value
        text = str(value).lower()
        if text in ("true", "yes", "on", "1"):
            return True
        if text in ("false", "no", "off", "0"):
            return False
        raise UsageError(f"{name}: {value!r} is not true or false")
    try:
        if kind.base is int:
            if isinstance(value, bool) or float(value) != int(float(value)):
                raise ValueError
            return int(value) if isinstance(value, int) else int(float(value))
        if kind.base is float:
            return float(value)
    except (TypeError, ValueError):
        raise UsageError(
            f"{name}: {value!r} is not {'a whole number' if kind.base is int else 'a number'}"
        ) from None
    return str(value)


def _convert(kind: _Kind, value: Any, name: str, choices: Sequence[str] | None) -> Any:
    if value is None or (kind.optional and str(value).lower() == "none"):
        if not kind.optional:
            raise UsageError(f"{name}: needs a value")
        return None
    values = (value if isinstance(value, list | tuple) else [value]) if kind.many else [value]
    converted = [_convert_one(kind, v, name) for v in values]
    for v in converted:
        if choices and v not in choices:
            raise UsageError(f"{name}: {v!r} is not one of {', '.join(choices)}")
    return converted if kind.many else converted[0]


def field_table(classes: Sequence[type]) -> dict[str, tuple[type, dataclasses.Field[Any], _Kind]]:
    """Option name -> (its dataclass, its field, its kind) over several dataclasses; a name may stand in one only."""
    table: dict[str, tuple[type, dataclasses.Field[Any], _Kind]] = {}
    for cls in classes:
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if field.name in table:
                raise TypeError(
                    f"option {field.name} is defined by {table[field.name][0].__name__} and {cls.__name__}"
                )
            table[field.name] = (cls, field, _kind(hints[field.name]))
    return table


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(str(v) for v in value) if isinstance(value, list) else str(value)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def build_parser(prog: str, description: str, classes: Sequence[type]) -> argparse.ArgumentParser:
    """An argument parser with one group per dataclass and `--config`; shows defaults, units and meaning."""
    parser = _Parser(
        prog=f"python -m {prog}",
        description=description,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=30, width=118
        ),
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file of options (a run's config.yaml); flags win over it",
    )
    groups = {
        cls: parser.add_argument_group(
            (cls.__doc__ or cls.__name__).strip().splitlines()[0].rstrip(".")
        )
        for cls in classes
    }
    for name, (cls, field, kind) in field_table(classes).items():
        meta = field.metadata
        shown = "required" if meta["required"] else f"default {_shown(_default(field))}"
        extra: dict[str, Any] = {}
        if kind.many:
            extra["nargs"] = "+"
        elif kind.base is bool:
            extra.update(nargs="?", const=True)
        metavar = meta["unit"].upper().replace(" ", "_") or {
            int: "N",
            float: "X",
            bool: "true|false",
        }.get(kind.base, "TEXT")
        if meta["choices"]:
            metavar = "|".join(meta["choices"])
        if meta["positional"]:
            groups[cls].add_argument(
                name,
                metavar=metavar if meta["choices"] else name.upper(),
                help=meta["help"].replace("%", "%%"),
            )
            continue
        groups[cls].add_argument(
            f"--{name}",
            *(f"--{alias}" for alias in meta["aliases"]),
            dest=name,
            default=argparse.SUPPRESS,
            metavar=metavar,
            help=f"{meta['help']} ({shown})".replace("%", "%%"),
            **extra,
        )
    for cls in classes:
        for name in getattr(cls, "old_options", ()):
            parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def unknown_key(key: str, known: Sequence[str], where: str) -> UsageError:
    """The error for an option name that nobody defined, with the nearest known one."""
    near = difflib.get_close_matches(key, known, n=1)
    return UsageError(
        f"{where}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    )


def aliases_of(classes: Sequence[type]) -> dict[str, str]:
    """Other spelling of an option -> its name."""
    table = field_table(classes)
    return {
        alias: name for name, (_, field, _) in table.items() for alias in field.metadata["aliases"]
    }


def canonical(
    values: Mapping[str, Any],
    classes: Sequence[type],
    where: str,
    base: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The mapping with every option under its own name.

    A dataclass may translate names that became values of another option with a static method
    `translate_old_options(values, where, base)`; `base`: options that `values` wins over.
    Raises `UsageError` where an option is given twice, under two spellings.
    """
    other, renamed = aliases_of(classes), {}
    for key, value in values.items():
        name = other.get(key, key)
        if name in renamed:
            raise UsageError(f"{where}: {name!r} is given twice (also as {key!r})")
        renamed[name] = value
    for cls in classes:
        if hasattr(cls, "translate_old_options"):
            renamed = cls.translate_old_options(renamed, where, base or {})
    return renamed


def build(
    classes: Sequence[type], values: dict[str, Any], where: str, *, check_required: bool = True
) -> tuple[Any, ...]:
    """Instances of the dataclasses from a flat mapping; unknown keys, wrong types and missing values are `UsageError`s."""
    table = field_table(classes)
    values = canonical(values, classes, where)
    for key in values:
        if key not in table:
            raise unknown_key(key, list(table), where)
    parts: dict[type, dict[str, Any]] = {cls: {} for cls in classes}
    for name, (cls, field, kind) in table.items():
        if name in values:
            parts[cls][name] = _convert(kind, values[name], f"--{name}", field.metadata["choices"])
        if check_required and field.metadata["required"] and parts[cls].get(name) in (None, [], ""):
            raise UsageError(f"--{name} is required: {field.metadata['help']}")
    return tuple(cls(**parts[cls]) for cls in classes)


def parse(
    prog: str,
    description: str,
    classes: Sequence[type[Any]],
    argv: Sequence[str] | None,
    *,
    check_required: bool = True,
) -> tuple[Any, ...]:
    """Parse a command line (and the `--config` file it names) into one instance per dataclass.

    Raises `UsageError` for unknown flags or keys, wrong types, missing required options.
    """
    parsed = vars(build_parser(prog, description, classes).parse_args(argv))
    config = parsed.pop("config", None)
    values = load_values(Path(config), classes) if config else {}
    values.update(canonical(parsed, classes, prog, values))
    return build(classes, values, prog, check_required=check_required)


def load_values(path: Path, classes: Sequence[type]) -> dict[str, Any]:
    """The flat mapping in a YAML file, every key checked against the dataclasses."""
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: is not YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise UsageError(f"{path}: must hold a mapping of options to values")
    table = field_table(classes)
    values = canonical(loaded, classes, str(path))
    for key in values:
        if key not in table:
            raise unknown_key(str(key), list(table), str(path))
    return values


def as_values(*parts: Any) -> dict[str, Any]:
    """The flat mapping of several option instances, in field order: what `build` takes back."""
    return {f.name: getattr(part, f.name) for part in parts for f in dataclasses.fields(part)}


def dump(*parts: Any) -> str:
    """YAML text of the options, one group per concern with its title as a comment; `--config` reads it back."""
    lines: list[str] = []
    for part in parts:
        lines.append(f"# {(type(part).__doc__ or type(part).__name__).strip().splitlines()[0]}")
        for field in dataclasses.fields(part):
            # JSON scalars and lists are YAML too, and quote what needs quoting.
            lines.append(
                f"{field.name}: {json.dumps(getattr(part, field.name), ensure_ascii=False)}"
            )
    return "\n".join(lines) + "\n"
