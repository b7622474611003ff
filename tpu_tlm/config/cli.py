"""From a command line to option groups: parser, help, suggestions."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from tpu_tlm import __version__
from tpu_tlm.config.experiment import as_values, with_presets
from tpu_tlm.config.files import dump, load_values, values_in
from tpu_tlm.config.options import Option, opt, options_of
from tpu_tlm.config.other_programs import COMMANDS as OTHER_COMMANDS
from tpu_tlm.config.other_programs import FLAGS
from tpu_tlm.config.resolve import Source, canonical, resolve, suggestion, translated
from tpu_tlm.config.suggest import did_you_mean, nearest, similarity
from tpu_tlm.errors import OptionError, UsageError

__all__ = [
    "as_values",
    "build",
    "build_parser",
    "canonical_values",
    "dump",
    "load_values",
    "opt",
    "parse",
    "values_in",
]

_HELP = ("-h", "--help")
_WIDTH = 100


def parse(
    prog: str,
    description: str,
    classes: Sequence[type[Any]],
    argv: Sequence[str] | None,
    *,
    check_required: bool = True,
) -> tuple[Any, ...]:
    """Parse a command line, and the `--config` file and `--preset` that it names.

    Returns one instance per group.
    `--help`, `--help-all` and `--version` print and exit. Raises `UsageError` naming the flag, or
    file and key, for unknown names, values that cannot be meant, and missing required options.
    """
    import sys

    args = [_plain(word) for word in (sys.argv[1:] if argv is None else argv)]
    if text := _asked_help(prog, description, classes, args):
        print(text)
        raise SystemExit(0)
    parsed = vars(build_parser(prog, description, classes).parse_args(args))
    config = parsed.pop("config", None)
    sources = [Source(parsed)]
    if config is not None:
        if not config:
            raise UsageError("--config: must not be empty")
        sources.insert(0, Source(load_values(config, classes), config, explicit=False))
    try:
        full = with_presets(tuple(classes), sources)
        return resolve(classes, full, check_required=check_required)
    except OptionError as error:
        raise UsageError(error.as_flags) from None


def build(
    classes: Sequence[type], values: dict[str, Any], where: str, *, check_required: bool = True
) -> tuple[Any, ...]:
    """Instances of the groups from a flat mapping (of a file that this package wrote).

    where: the file, as errors name it. Rules between options are not checked: files of earlier
    versions may break them. Raises `UsageError` for unknown names and values out of range.
    """
    source = Source(values, where, explicit=False)
    return resolve(classes, [source], rules=False, check_required=check_required)


def canonical_values(values: dict[str, Any], classes: Sequence[type], where: str) -> dict[str, Any]:
    """The mapping with every option of `classes` under its present name; other keys are left out.

    Raises `UsageError` where an option is given twice, under two spellings.
    """
    table = options_of(classes)
    known = {
        key: value
        for key, value in translated(classes, Source(values, where), {}).values.items()
        if key in table
        or any(
            key in option.declared.aliases or key in option.declared.shorthands
            for option in table.values()
        )
    }
    found = canonical(Source(known, where), table)
    return {name: value for name, (value, _) in found.items()}


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UsageError`s with a suggestion."""

    def __init__(self, command: str, table: dict[str, Option], **kwargs: Any) -> None:
        super().__init__(add_help=False, allow_abbrev=False, **kwargs)
        self.command, self.table = command, table

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [word for word in unknown if word.startswith("--")]
            word = (flags or unknown)[0]
            short = re.fullmatch(r"-([A-Za-z]\w+)", word)
            if short and (near := nearest(short[1], self.table)):
                raise UsageError(f"unknown flag {word}: flags begin with --, as --{near} does")
            raise UsageError(
                unknown_flag(word.partition("=")[0], self.command, self.table)
                if flags
                else f"unexpected argument {word!r}{self._see()}"
            )
        return found

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (\S+?)(/\S+)*: ", r"\1: ", message)
        if match := re.match(r"the following arguments are required: (.*)", message):
            message = f"missing: {match[1].upper()}"
        raise UsageError(f"{message}{self._see()}")

    def _see(self) -> str:
        return f" (see {self.prog} --help)"


def unknown_flag(flag: str, command: str, table: dict[str, Option]) -> str:
    """The error for an unknown flag: what it is called here, or the nearest one."""
    name = flag.lstrip("-").replace("-", "_")
    start = f"unknown flag {flag}"
    if name.startswith("no_") and name[3:] in table and table[name[3:]].base is bool:
        return f"{start}: give --{name[3:]} false"
    there = _elsewhere(name, command)
    own = suggestion(name, table)
    # An exact name of another command says more than a name that is similar.
    if own and (own.startswith(":") or not there):
        near = _near_elsewhere(name, command, table)
        return start + (own if own.startswith(":") or not near else f": {near}")
    if there or name in FLAGS:
        return f"{start}: {there or FLAGS[name]}"
    return f"{start} (see python -m tpu_tlm.{command} --help-all)"


def _elsewhere(name: str, command: str) -> str:
    """Where an option of another command is, in words; empty where there is none."""
    for other, groups in _others(command):
        for option in options_of(groups).values():
            if name in (option.name, *option.declared.aliases, *option.declared.also_called):
                return f"it is --{option.name} of the command {other}"
    return ""


def _others(command: str) -> Iterator[tuple[str, tuple[type[Any], ...]]]:
    """Other commands and their groups; quickstart last, which has options of all others."""
    from tpu_tlm.config.command_table import COMMANDS

    names = sorted(COMMANDS, key=lambda name: name == "quickstart")
    return ((name, COMMANDS[name].groups) for name in names if name != command)


def _near_elsewhere(name: str, command: str, table: dict[str, Option]) -> str:
    """The option of another command that is nearer to a name than any of `table`, in words."""
    if name in FLAGS:
        return FLAGS[name]
    best, found = similarity(name, table) + 0.1, ""
    for other, groups in _others(command):
        for option in options_of(groups).values():
            if option.name not in table and (near := similarity(name, [option.name])) > best:
                best, found = near, f"did you mean --{option.name} of the command {other}?"
    return found


def build_parser(prog: str, description: str, classes: Sequence[Any]) -> argparse.ArgumentParser:
    """A parser of the flags of these groups and `--config`: texts, for the flags that are given."""
    table = options_of(classes)
    parser = _Parser(prog.rpartition(".")[2], table, prog=f"python -m {prog}")
    parser.add_argument("--config")
    for name, option in table.items():
        declared = option.declared
        if declared.positional:
            parser.add_argument(name, nargs="+" if option.many else None)
            continue
        extra: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
        if option.many:
            extra["nargs"] = "+"
        elif option.base is bool:
            extra.update(nargs="?", const=True)
        flags = [f"--{spelling}" for spelling in (name, *declared.aliases)]
        parser.add_argument(*flags, **extra)
        for short in declared.shorthands:
            parser.add_argument(
                f"--{short}", dest=short, default=argparse.SUPPRESS, nargs="?", const=True
            )
    for name in dict.fromkeys(old for group in classes for old in group.old_options):
        parser.add_argument(f"--{name}", dest=name, default=argparse.SUPPRESS)
    return parser


def _plain(word: str) -> str:
    """A flag with `_` for `-` in its name."""
    if not re.match(r"--[A-Za-z]", word):
        return word
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}"


def _asked_help(
    prog: str, description: str, classes: Sequence[type], args: Sequence[str]
) -> str | None:
    if "--version" in args:
        return f"tpu-tlm {__version__}"
    if "--help_all" in args:
        return help_text(prog, description, classes, everything=True)
    return help_text(prog, description, classes) if any(h in args for h in _HELP) else None


def help_text(
    prog: str, description: str, classes: Sequence[type], *, everything: bool = False
) -> str:
    """The help of a command: basic options and examples, or every option by group."""
    from tpu_tlm.config.command_table import COMMANDS

    command = prog.rpartition(".")[2]
    table = options_of(classes)
    positional = [name for name, o in table.items() if o.declared.positional]
    words = " ".join([*(name.upper() for name in positional), "[--OPTION VALUE ...]"])
    lines = [f"usage: tpu-tlm {command} {words}", f"   or: python -m {prog} {words}", ""]
    for paragraph in re.split(r"\n\s*\n", description.strip()):
        lines += [*textwrap.wrap(paragraph, _WIDTH, break_on_hyphens=False), ""]
    config = _lines("--config FILE", "YAML file of options, such as a run's config.yaml; flags win")
    shown = {group: [o for o in table.values() if o.group is group] for group in classes}
    if everything:
        for group, options in shown.items():
            lines.append(f"{(group.__doc__ or '').strip().splitlines()[0].rstrip('.')}:")
            lines += [line for option in options for line in _described(option)]
            lines.append("")
        lines += [*config, ""]
    else:
        more = COMMANDS[command].basic if command in COMMANDS else ()
        basic = [o for o in table.values() if o.declared.basic or o.name in more]
        required = [o for o in basic if o.declared.required]
        lines += [line for o in required for line in _described(o)]
        lines += [line for o in basic if o not in required for line in _described(o)]
        lines += [*config, ""]
        hidden = len(table) - len(basic)
        if hidden:
            lines += [f"{hidden} more options: tpu-tlm {command} --help-all", ""]
    if command in COMMANDS:
        lines.append("examples:")
        lines += [
            f"  tpu-tlm {command} {example}".rstrip() for example in COMMANDS[command].examples
        ]
    return "\n".join(lines).rstrip()


def _described(option: Option) -> list[str]:
    declared = option.declared
    metavar = declared.unit.upper().replace(" ", "_") or {
        int: "N",
        float: "X",
        bool: "true|false",
    }.get(option.base, "TEXT")
    if option.choices and sum(map(len, option.choices)) < 60:
        metavar = "|".join(option.choices)
    elif option.choices:
        metavar = "NAME"
    head = option.name.upper() if declared.positional else f"--{option.name} {metavar}"
    facts = ["required" if declared.required else f"default {_shown(option.default)}"]
    facts += [option.range()] if option.range() else []
    if option.choices and metavar == "NAME" and any(c not in declared.help for c in option.choices):
        facts.append(f"one of {', '.join(option.choices)}")
    facts += [f"also --{alias}" for alias in declared.aliases]
    facts += [f"--{short} = {value}" for short, value in declared.shorthands.items()]
    return _lines(head, f"{declared.help} ({'; '.join(facts)})")


def _lines(head: str, text: str) -> list[str]:
    width = min(_WIDTH, max(60, shutil.get_terminal_size((_WIDTH, 40)).columns))
    indent = " " * 30
    body = textwrap.wrap(text, width - 30, break_on_hyphens=False)
    if len(head) > 26:
        return [f"  {head}", *(indent + line for line in body)]
    return [f"  {head:28}{body[0]}", *(indent + line for line in body[1:])]


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(str(v) for v in value) if isinstance(value, list) else str(value)


def command_error(name: str, known: Iterable[str]) -> str:
    """The message for an unknown command."""
    known = list(known)
    ours = OTHER_COMMANDS.get(name.lower().replace("-", "_"))
    if ours is not None:
        return f"there is no command {name!r}: it is tpu-tlm {ours} here"
    return (
        f"there is no command {name!r}{did_you_mean(name, known, 'tpu-tlm ')}"
        f" (commands: {', '.join(known)})"
    )
