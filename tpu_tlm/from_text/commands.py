"""The commands that a quickstart runs: their flags, run in this process, and as a script."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tpu_tlm.config import cli
from tpu_tlm.config.command_table import COMMANDS


@dataclass(frozen=True)
class CommandLine:
    """One command: its name and its arguments."""

    name: str
    arguments: tuple[str, ...]

    @classmethod
    def of(cls, name: str, *positional: str, **options: Any) -> CommandLine:
        """From option values; None leaves an option out."""
        arguments = list(positional)
        for option, value in options.items():
            if value is None:
                continue
            values = value if isinstance(value, list | tuple) else [value]
            arguments += [f"--{option}", *map(_text, values)]
        return cls(name, tuple(arguments))

    def groups(self) -> tuple[Any, ...]:
        """The options, as the command itself parses them."""
        return cli.parse(f"tpu_tlm.{self.name}", "", COMMANDS[self.name].groups, self.arguments)

    def shown(self) -> str:
        """As it is typed."""
        return f"python -m tpu_tlm.{self.name} {shlex.join(self.arguments)}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def script(commands: Sequence[CommandLine], directory: str, inputs: Sequence[str]) -> str:
    """A shell script that repeats the commands in a directory of its own.

    directory: where they were run; inputs: paths of the text, which are made absolute.
    """
    lines = [
        "#!/bin/sh",
        f"# What tpu-tlm quickstart ran in {directory}; to repeat it: sh commands.sh NEW_DIR",
        "set -eu",
        'OUT="${1:?give a new directory}"',
        'mkdir -p "$OUT"',
        'PYTHON="${PYTHON:-python}"',
    ]
    for command in commands:
        words = []
        for word in command.arguments:
            if word == directory or word.startswith(f"{directory}/"):
                words.append('"$OUT"' + shlex.quote(word[len(directory) :] or "/."))
            elif word in inputs and "://" not in word:
                words.append(shlex.quote(os.path.abspath(word)))
            else:
                words.append(shlex.quote(word))
        lines.append(" ".join(['"$PYTHON" -m', f"tpu_tlm.{command.name}", *words]))
    return "\n".join(lines) + "\n"


def run(command: CommandLine, say: Callable[[str], None]) -> list[str]:
    """Run vocab, preprocess or convert in this process; returns the lines that it prints."""
    groups: Any = command.groups()
    if command.name == "vocab":
        from tpu_tlm.data.tokenizers.learn_vocabulary import learn_vocabulary
        from tpu_tlm.formats.huggingface.vocabulary import vocabulary_files

        corpus, options = groups
        return learn_vocabulary(corpus, options, vocabulary_files).lines
    if command.name == "preprocess":
        from tpu_tlm.data.preprocessing.preprocess import preprocess

        corpus, tokens, options, pairs = groups
        result = preprocess(corpus, tokens, options, pairs, notice=say)
        return [*result.lines, *(f"warning: {warning}" for warning in result.warnings)]
    assert command.name == "convert"
    from tpu_tlm.formats.conversion import convert

    return convert(*groups)[1].lines()
