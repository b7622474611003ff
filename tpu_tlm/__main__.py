"""`tpu-tlm COMMAND ...` and `python -m tpu_tlm COMMAND ...`: the commands under one name."""

from __future__ import annotations

import importlib
import sys

from tpu_tlm.errors import EXIT_USAGE, end_process, run_command

COMMANDS = {
    "vocab": "learn a subword vocabulary",
    "preprocess": "turn text into a dataset",
    "train": "train a model",
    "evaluate": "measure a model on a dataset",
    "predict": "try a model out",
    "convert": "write a model in another format",
    "plan": "what a training step needs and takes on a TPU, without one",
    "doctor": "check this machine and what is installed",
}


def main() -> int:
    """Run the command that the first argument names; without one, list them. Returns the exit code."""
    name, *argv = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        code = run_command(importlib.import_module(f"tpu_tlm.{name}").main, argv)
        end_process(code)
    listing = "\n".join(f"  {command:12}{meaning}" for command, meaning in COMMANDS.items())
    text = f"usage: tpu-tlm COMMAND [options]   (the same as python -m tpu_tlm.COMMAND; --help shows the options)\n\n{listing}"
    if name in ("-h", "--help"):
        print(text)
        return 0
    print(f"error: there is no command {name!r}\n{text}", file=sys.stderr)
    return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
