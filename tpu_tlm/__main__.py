"""`tpu-tlm COMMAND ...` and `python -m tpu_tlm COMMAND ...`: the commands under one name."""

from __future__ import annotations

import importlib
import sys

from tpu_tlm import __version__
from tpu_tlm.config.cli import command_error
from tpu_tlm.config.command_table import COMMANDS
from tpu_tlm.errors import EXIT_USAGE, end_process, run_command


def main(argv: list[str] | None = None) -> int:
    """Run the command that the first argument names, or list the commands; returns the exit code.

    `help COMMAND` and `COMMAND help` are `COMMAND --help`.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["help"]
    if name == "help" and rest:
        name, rest = rest[0], ["--help"]
    if rest == ["help"]:
        rest = ["--help"]
    if name in COMMANDS:
        end_process(run_command(importlib.import_module(f"tpu_tlm.{name}").main, rest))
    about = None
    if name in ("-h", "--help", "help", "--help-all"):
        about = _listing()
    elif name in ("--version", "version", "-v", "-V"):
        about = f"tpu-tlm {__version__}"
    if about is not None:
        return run_command(lambda _: print(about))
    print(f"error: {command_error(name, COMMANDS)}", file=sys.stderr)
    return EXIT_USAGE


def _listing() -> str:
    lines = [f"  {name:12}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: tpu-tlm COMMAND [--OPTION VALUE ...]   (the same: python -m tpu_tlm.COMMAND)",
            "",
            *lines,
            "",
            "tpu-tlm help COMMAND shows the options of a command; --version the version",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
