"""Declaration of an option, and the check of a value against it.

An option is a dataclass field made by `opt`. Everything that is known of it stands there: default,
help, unit, range, choices (as `typing.Literal`), other spellings, what it needs and excludes,
whether a continued run may change it, whether it shapes the model.
"""

from __future__ import annotations

import dataclasses
import decimal
import functools
import math
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tpu_tlm.config.strict import kind_of
from tpu_tlm.config.suggest import did_you_mean
from tpu_tlm.errors import OptionError

# A condition of `only_with`: the other option has a value that is not None, 0, False or empty.
SET = "(set)"

# Whole numbers without a `maximum` of their own fit the int32 of the device program.
_LARGEST_INT = 2**31 - 1
# Units of options that name a place.
_PATHS = ("dir", "directory", "file", "glob", "path")
# What a seed can be: a non-negative int64.
LARGEST_SEED = 2**63 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declaration:
    """What `opt` was given."""

    help: str
    unit: str
    minimum: float | None
    maximum: float | None
    above: float | None
    below: float | None
    aliases: tuple[str, ...]
    also_called: Mapping[str, str]
    shorthands: Mapping[str, str]
    words: Mapping[str, int]
    required: bool
    positional: bool
    basic: bool
    may_be_empty: bool
    choices: Sequence[str]
    open_choice: str | None
    only_with: Mapping[str, tuple[Any, ...]]
    conflicts: tuple[str, ...]
    may_change: bool
    may_differ: bool
    shapes_model: bool
    shapes_data: bool
    decided_by_files: bool


def opt(
    default: Any,
    help: str,  # noqa: A002 - argparse's own word
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    aliases: Sequence[str] = (),
    also_called: Mapping[str, str] | Sequence[str] = (),
    shorthands: Mapping[str, str] | None = None,
    words: Mapping[str, int] | None = None,
    required: bool = False,
    positional: bool = False,
    basic: bool = False,
    may_be_empty: bool = False,
    choices: Sequence[str] = (),
    open_choice: str | None = None,
    only_with: Mapping[str, Sequence[Any]] | None = None,
    conflicts: Sequence[str] = (),
    may_change: bool = False,
    may_differ: bool = False,
    shapes_model: bool = False,
    shapes_data: bool = True,
    decided_by_files: bool = False,
) -> Any:
    """A dataclass field that is an option.

    unit: of the value, shown in the help. minimum, maximum: inclusive bounds; above, below:
    exclusive ones; they hold for every element of a list. Numbers are always finite.
    aliases: other spellings that are accepted (flags and configuration keys).
    also_called: names that other programs use, answered with ours; with a note on what differs.
    shorthands: name of a boolean flag -> the value that it stands for ({"causal": "clm"}).
    words: texts that stand for a number ({"auto": 0}).
    required: must be given; positional: a positional argument, required too.
    basic: shown by the short --help. may_be_empty: an empty text is a value.
    choices: where a `Literal` cannot say them. open_choice: a text that lets a value pass that is
    none of the choices (".py:").
    only_with: other option -> its values with which this option acts (`SET`: any but none, 0,
    false); given without them it is refused. conflicts: options that cannot be given beside it.
    may_change: a continued run may change it. may_differ: may differ between the workers of a run.
    shapes_model: decides what a model computes. shapes_data: decides the bytes of a dataset.
    decided_by_files: files that another option names say it, where no user does; a preset's value
    is for files that leave it open.
    """
    declaration = Declaration(
        help=help,
        unit=unit,
        minimum=minimum,
        maximum=maximum,
        above=above,
        below=below,
        aliases=tuple(aliases),
        also_called=(
            also_called if isinstance(also_called, Mapping) else dict.fromkeys(also_called, "")
        ),
        shorthands=shorthands or {},
        words=words or {},
        required=required or positional,
        positional=positional,
        basic=basic or required or positional,
        may_be_empty=may_be_empty,
        choices=choices,
        open_choice=open_choice,
        only_with={name: tuple(values) for name, values in (only_with or {}).items()},
        conflicts=tuple(conflicts),
        may_change=may_change,
        may_differ=may_differ,
        shapes_model=shapes_model,
        shapes_data=shapes_data,
        decided_by_files=decided_by_files,
    )
    metadata = {"option": declaration}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def same_as(group: type, name: str, help: str, **changes: Any) -> Any:  # noqa: A002
    """A field like the option `name` of `group` (range, choices, unit), whose default is none.

    For a command that takes the value from a run unless it is given. Annotate it `TYPE | None`.
    """
    like = options_in(group)[name].declared
    return dataclasses.field(
        default=None,
        metadata={
            "option": dataclasses.replace(
                like,
                **{"help": help, "required": False, "basic": False, "only_with": {}, **changes},
            )
        },
    )


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: its field, the type of its value and what `opt` declared."""

    group: type
    name: str
    base: type
    many: bool
    optional: bool
    choices: Sequence[str]
    declared: Declaration
    field: dataclasses.Field[Any] = dataclasses.field(repr=False, compare=False)

    @property
    def default(self) -> Any:
        """The default, a new list for a list."""
        if self.field.default_factory is not dataclasses.MISSING:
            return self.field.default_factory()
        return self.field.default

    def range(self) -> str:
        """The range in words: "above 0 and at most 1"; empty for an option without one."""
        d = self.declared
        bounds = [
            f"at least {_number(d.minimum)}" if d.minimum is not None else "",
            f"above {_number(d.above)}" if d.above is not None else "",
            f"at most {_number(d.maximum)}" if d.maximum is not None else "",
            f"below {_number(d.below)}" if d.below is not None else "",
        ]
        return " and ".join(bound for bound in bounds if bound)

    def checked(self, value: Any, named: str | None = None) -> Any:
        """The value in the option's type.

        named: how an error names the option (`--name` unless given). Texts are converted as a
        command line needs it. Raises `OptionError` for a value of another type, out of the range,
        or none of the choices.
        """
        named = named or f"--{self.name}"
        if value is None or (self.optional and str(value).lower() == "none"):
            if not self.optional:
                raise OptionError(f"{named}: needs a value")
            return None
        if not self.many:
            return self._checked_one(value, named)
        if isinstance(value, str) and value.lower() == "none":
            return []
        if isinstance(value, list | tuple) and [str(v).lower() for v in value] == ["none"]:
            return []
        values = value if isinstance(value, list | tuple) else [value]
        return [self._checked_one(one, named) for one in values]

    def _checked_one(self, value: Any, named: str) -> Any:
        if isinstance(value, str):
            value = self.declared.words.get(value.lower(), value)
        convert = {bool: _bool, int: _int, float: _float, str: self._text}[self.base]
        converted: Any = convert(value, named)
        if self.choices and not self._is_choice(converted):
            near = did_you_mean(converted, self.choices)
            raise OptionError(
                f"{named} {_shown(value)}: is none of {', '.join(self.choices)}{near}"
            )
        if self.base in (int, float) and not self._in_range(converted):
            raise OptionError(f"{named} {_shown(value)}: must be {self.range()}")
        too_large = self.base is int and self.declared.maximum is None and converted > _LARGEST_INT
        if too_large:
            raise OptionError(f"{named} {_shown(value)}: must be at most {_LARGEST_INT}")
        return converted

    def _is_choice(self, value: str) -> bool:
        other = self.declared.open_choice
        return value in self.choices or (other is not None and other in value)

    def _in_range(self, value: float) -> bool:
        d = self.declared
        return (
            (d.minimum is None or value >= d.minimum)
            and (d.above is None or value > d.above)
            and (d.maximum is None or value <= d.maximum)
            and (d.below is None or value < d.below)
        )

    def _text(self, value: Any, named: str) -> str:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise OptionError(f"{named}: must be text, not {kind_of(value)}; quote it")
        if not value and not self.declared.may_be_empty and not self.choices:
            out = "; leave it out, or give none" if self.optional else ""
            raise OptionError(f"{named}: must not be empty{out}")
        if "\x00" in value:
            raise OptionError(f"{named}: has a NUL character")
        if self.declared.unit in _PATHS and re.match(r"gs:(?!//[^/])", value):
            # Without this it would name a local directory `gs:`.
            raise OptionError(f"{named} {_shown(value)}: names no bucket: write gs://BUCKET/PATH")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise OptionError(f"{named} {value!r}: is not UTF-8") from None
        return value


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}" if abs(value) < 1e6 else str(value)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return (text if len(text) <= 60 else f"{text[:57]}...") or "''"


def _bool(value: Any, named: str) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text in ("true", "yes", "on", "1"):
        return True
    if text in ("false", "no", "off", "0"):
        return False
    raise OptionError(f"{named} {_shown(value)}: must be true or false")


def _decimal(value: Any) -> decimal.Decimal | None:
    """The number exactly, or None where it is none or not finite."""
    if isinstance(value, bool | list | tuple | dict) or value is None:
        return None
    try:
        number = decimal.Decimal(str(value).strip().replace("_", ""))
    except decimal.InvalidOperation:
        return None
    return number if number.is_finite() else None


def _int(value: Any, named: str) -> int:
    number = _decimal(value)
    if number is None or number.adjusted() > 40 or number != number.to_integral_value():
        large = number is not None and number.adjusted() > 40
        what = "is too large a number" if large else "must be a whole number"
        raise OptionError(f"{named} {_shown(value)}: {what}")
    return int(number)


def _float(value: Any, named: str) -> float:
    number = _decimal(value)
    result = float(number) if number is not None else math.nan
    if not math.isfinite(result):
        raise OptionError(f"{named} {_shown(value)}: must be a finite number")
    return result


class OptionGroup:
    """Base of the dataclasses whose fields are options: their values are checked when made."""

    # Flags and keys of earlier versions that `translate_old_options` turns into present ones, where
    # an alias is not enough.
    old_options: ClassVar[tuple[str, ...]] = ()
    # Names of the options that a user gave; `resolve` sets it on the instances that it makes.
    given: ClassVar[frozenset[str]] = frozenset()
    # Names of the options whose value a preset gave; set in the same way.
    by_preset: ClassVar[frozenset[str]] = frozenset()

    @staticmethod
    def translate_old_options(
        values: Mapping[str, Any], where: str, base: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """The values of one source with `old_options` replaced.

        where: the source, as errors name it; base: the values of the weaker sources.
        """
        return values

    def __post_init__(self) -> None:
        for name, option in options_in(type(self)).items():
            value = getattr(self, name)
            if value != option.default or type(value) is not type(option.default):
                object.__setattr__(self, name, option.checked(value))
        self.check()

    def check(self) -> None:
        """Raise `OptionError` where values of this group never go together."""

    def check_complete(self) -> None:
        """The same for values that may differ for a moment, as `dataclasses.replace` makes them.

        Called once all options of a command are known.
        """


def options_in(group: type) -> dict[str, Option]:
    """Name -> option of one dataclass, in the order of its fields."""
    return _options_in(group)


@functools.cache
def _options_in(group: Any) -> dict[str, Option]:
    hints = typing.get_type_hints(group)
    found = {}
    for field in dataclasses.fields(group):
        base, many, optional, choices = _kind(hints[field.name])
        declared = field.metadata["option"]
        found[field.name] = Option(
            group, field.name, base, many, optional, choices or declared.choices, declared, field
        )
    return found


def options_of(groups: Sequence[type]) -> dict[str, Option]:
    """Name -> option over several dataclasses. Raises `TypeError` for a name that stands twice."""
    table: dict[str, Option] = {}
    for group in groups:
        for name, option in options_in(group).items():
            if name in table:
                first = table[name].group.__name__
                raise TypeError(f"option {name} is defined by {first} and {group.__name__}")
            table[name] = option
    return table


def _kind(annotation: Any) -> tuple[type, bool, bool, tuple[str, ...]]:
    """(type of a value, whether it is a list, whether it may be None, choices)."""
    optional = many = False
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        members = [a for a in typing.get_args(annotation) if a is not type(None)]
        optional = len(members) != len(typing.get_args(annotation))
        annotation = members[0]
    if typing.get_origin(annotation) is list:
        many, annotation = True, typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is typing.Literal:
        return str, many, optional, tuple(typing.get_args(annotation))
    return annotation, many, optional, ()
