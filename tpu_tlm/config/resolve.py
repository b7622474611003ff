"""From named values to option groups: defaults, a preset, a file and flags in one, and the rules
between options.

The sources have a rank: default < preset < file < preset named by a flag < flag. An option that
another one makes idle, or that excludes another one, is refused where both come from the same
source, or where the idle one comes from the stronger source; a weaker one gives way.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tpu_tlm.config.options import SET, Option, options_in, options_of
from tpu_tlm.config.suggest import nearest
from tpu_tlm.errors import OptionError, UsageError

# How the source of a preset's values is named.
PRESET = "preset "


@dataclasses.dataclass(frozen=True)
class Source:
    """Values by option name from one place; later sources are stronger.

    where: the file, as errors name it; empty for flags and Python keywords. explicit: whether a
    value that equals the default counts as given (a flag does, a line of a resolved file does not).
    """

    values: Mapping[str, Any]
    where: str = ""
    explicit: bool = True

    def is_dump(self, table: Mapping[str, Option]) -> bool:
        """Whether this is the resolved configuration of a run: it holds most options.

        What it holds in vain was accepted when the run began, and must not stop it now.
        """
        return bool(self.where) and len(self.values) > len(table) / 2


@dataclasses.dataclass
class _Given:
    value: Any
    rank: int
    where: str
    explicit: bool
    from_dump: bool = False

    @property
    def by_user(self) -> bool:
        """Whether the user chose the value itself, not a default or a preset."""
        return self.explicit and not self.by_preset

    @property
    def by_preset(self) -> bool:
        """Whether a preset gave the value."""
        return self.where.startswith(PRESET)

    def name(self, name: str) -> str:
        """The option as an error names it: a flag, or the key of a file."""
        return f"{self.where}: {name}" if self.where else f"--{name}"


def resolve(
    groups: Sequence[Any],
    sources: Sequence[Source],
    *,
    rules: bool = True,
    check_required: bool = True,
) -> tuple[Any, ...]:
    """One instance per group from the values of all sources, weakest first.

    rules: also check `only_with` and `conflicts`. Raises `OptionError` or `UsageError` naming the
    flag, or file and key, for an unknown name, a value that cannot be meant, options that exclude
    each other, and a required option that is missing.
    """
    table = options_of(groups)
    given: dict[str, _Given] = {}
    for rank, source in enumerate(sources, 1):
        source = translated(groups, source, {name: one.value for name, one in given.items()})
        dump = source.is_dump(table)
        for name, (value, _) in canonical(source, table).items():
            option = table[name]
            named = f"{source.where}: {name}" if source.where else f"--{name}"
            if not source.explicit and value == option.default:
                checked = value
            else:
                checked = option.checked(value, named)
            explicit = source.explicit or checked != option.default
            given[name] = _Given(checked, rank, source.where, explicit, dump)
    if rules:
        _drop_conflicts(table, given)
        # Twice: an option may depend on one that gives way itself.
        for _ in range(2):
            _drop_idle(table, given)
    if check_required:
        for name, option in table.items():
            if option.declared.required and (
                name not in given or given[name].value in (None, [], "")
            ):
                raise OptionError(f"--{name} is required: {option.declared.help}")
    values: dict[type, dict[str, Any]] = {group: {} for group in groups}
    for name, one in given.items():
        values[table[name].group][name] = one.value
    try:
        made = tuple(group(**values[group]) for group in groups)
        for group in made:
            given_here = (name for name in values[type(group)] if given[name].by_user)
            object.__setattr__(group, "given", frozenset(given_here))
            of_preset = (name for name in values[type(group)] if given[name].by_preset)
            object.__setattr__(group, "by_preset", frozenset(of_preset))
        for group in made if rules else ():
            group.check_complete()
        return made
    except OptionError as error:
        raise _placed(error, given) from None


def translated(groups: Sequence[Any], source: Source, base: Mapping[str, Any]) -> Source:
    """The source with names of earlier versions replaced that became values of other options."""
    values = source.values
    for group in groups:
        if any(name in values for name in group.old_options):
            values = group.translate_old_options(values, source.where or "options", base)
    return source if values is source.values else dataclasses.replace(source, values=values)


def canonical(source: Source, table: Mapping[str, Option]) -> dict[str, tuple[Any, str]]:
    """Option name -> (value, the shorthand it was given by or ""), under its present name.

    Raises `UsageError` for an unknown name, and for an option that is given twice under two names.
    """
    aliases = {alias: name for name, o in table.items() for alias in o.declared.aliases}
    shorthands = {
        short: (name, value)
        for name, o in table.items()
        for short, value in o.declared.shorthands.items()
    }
    prefix = f"{source.where}: " if source.where else "--"
    found: dict[str, tuple[Any, str]] = {}
    for key, value in source.values.items():
        name, short = aliases.get(key, key), ""
        if key in shorthands:
            if not _is_true(value, f"{prefix}{key}"):
                continue
            (name, value), short = shorthands[key], key
        if name not in table:
            raise unknown_option(key, table, source.where)
        if name in found:
            old, other = found[name]
            if short or other:
                if str(old) == str(value):
                    continue
                wanted = value if other else old
                raise OptionError(
                    f"{prefix}{short or other} is the same as --{name} "
                    f"{value if short else old}, not {wanted}: leave one of the two out"
                )
            raise OptionError(f"{prefix}{name}: is given twice (also as {key!r})")
        found[name] = (value, short)
    return found


def unknown_option(name: str, table: Mapping[str, Option], where: str) -> UsageError:
    """The error for a name that is no option, with what is known of it."""
    prefix = f"{where}: " if where else ""
    hint = suggestion(name, table)
    return UsageError(f"{prefix}unknown key {name!r}" + (hint.replace("--", "") if hint else ""))


def suggestion(name: str, table: Mapping[str, Option]) -> str:
    """What an unknown option is called here, or the nearest one, as the end of a sentence."""
    spellings: dict[str, str] = {}
    for option in table.values():
        declared = option.declared
        if name in declared.also_called:
            note = declared.also_called[name]
            return f": it is --{option.name} here" + (f" ({note})" if note else "")
        spellings[option.name] = option.name
        spellings |= dict.fromkeys((*declared.aliases, *declared.also_called), option.name)
        spellings |= {short: short for short in declared.shorthands}
    near = nearest(name, spellings)
    return f"; did you mean --{spellings[near]}?" if near else ""


def _is_true(value: Any, named: str) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        return text in ("true", "yes", "on", "1")
    raise OptionError(f"{named} {value}: must be true or false")


def _drop_conflicts(table: Mapping[str, Option], given: dict[str, _Given]) -> None:
    for name, option in table.items():
        for other in option.declared.conflicts:
            one, two = given.get(name), given.get(other)
            if one is None or two is None or not (_active(one) and _active(two)):
                continue
            if one.rank == two.rank:
                if one.from_dump:
                    continue
                raise OptionError(
                    f"{one.name(name)} and --{other} exclude each other: leave one of the two out"
                )
            del given[name if one.rank < two.rank else other]


def idle_options(parts: Sequence[Any]) -> set[str]:
    """Names of the options that others make idle, in groups that are resolved already."""
    table = options_of([type(part) for part in parts])
    values = {name: getattr(part, name) for part in parts for name in options_in(type(part))}
    given = {name: _Given(value, 0, "", True) for name, value in values.items()}
    return {
        name
        for name, option in table.items()
        for other, wanted in option.declared.only_with.items()
        if other in table and not _holds(other, wanted, table, given)
    }


def _active(one: _Given) -> bool:
    return one.explicit and one.value not in (None, "", [])


def _drop_idle(table: Mapping[str, Option], given: dict[str, _Given]) -> None:
    for name, option in table.items():
        one = given.get(name)
        if one is None or not one.explicit or one.from_dump or one.value is None:
            continue
        for other, wanted in option.declared.only_with.items():
            if other not in table or _holds(other, wanted, table, given):
                continue
            controls = given.get(other)
            if controls is not None and controls.rank > one.rank:
                del given[name]
                break
            if _gives_way(table[other], controls, one):
                del given[other]
                if _holds(other, wanted, table, given):
                    continue
            shown = [str(value) for value in wanted if value is not None]
            values = " or ".join(shown) if SET not in wanted else ""
            now = controls.value if controls is not None else table[other].default
            now = str(now).lower() if isinstance(now, bool) else now
            raise OptionError(
                f"{one.name(name)}: acts only with --{other}{f' {values}' if values else ''}"
                + (f", and this is --{other} {now}" if values else "")
                + "; leave it out"
            )


def _gives_way(option: Option, preset: _Given | None, user: _Given) -> bool:
    """Whether a preset's value of an option that files decide yields to what a user gave."""
    decided = option.declared.decided_by_files
    return decided and preset is not None and preset.by_preset and user.by_user


def _holds(
    other: str, wanted: Sequence[Any], table: Mapping[str, Option], given: Mapping[str, _Given]
) -> bool:
    value = given[other].value if other in given else table[other].default
    if SET in wanted:
        return bool(value)
    opened = table[other].declared.open_choice
    if isinstance(value, list):
        return any(one in wanted for one in value)
    return value in wanted or (opened is not None and opened in str(value))


def _placed(error: OptionError, given: Mapping[str, _Given]) -> OptionError:
    """The error of a group, naming the file where all options that it names come from one."""
    names = re.findall(r"--([a-z_]+)", error.as_flags)
    places = {given[name].where if name in given else "" for name in names}
    if len(places) == 1 and (where := places.pop()):
        return OptionError(f"{where}: {error}")
    return error
