"""Preprocessing on many machines against the local command, in MB of text per CPU-second.

    python -m benchmarks.many_machines [--megabytes 60] [--rounds 3] [--text DIR] \
        [--beam_python .venv-beam/bin/python]

Forms: the local command with one worker; two processes with `--index` and `--of 2` that share a
directory; Apache Beam on its own runner, where `--beam_python` names an interpreter that has it
(`make beam-check` makes one). They take turns, and ratios are taken within a round. CPU-seconds are
those of all processes of a form, so MB per CPU-second is what one worker of one core does.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.preprocessing import _corpus, measure


def main() -> None:
    """Learn a vocabulary, take turns, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--text")
    parser.add_argument("--beam_python")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        vocabulary, output = directory / "vocab", directory / "out"
        text = _corpus(directory, options.text, 0)
        learn = ["--output", str(vocabulary), "--subword_type", "wordpiece"]
        learn += ["--vocab_size", "30000", "--cased", "false"]
        measure([sys.executable, "-m", "tpu_tlm.vocab", "--input_files", str(text), *learn])
        text = _corpus(directory, options.text, options.megabytes)

        def command(python: str, *more: str) -> list[str]:
            given = ["--input_files", str(text), "--output", str(output), "--workers", "1"]
            given += ["--vocab", str(vocabulary), "--seq_length", "128", *more]
            return [python, "-m", "tpu_tlm.preprocess", *given]

        two = [shlex.join(command(sys.executable, "--index", i, "--of", "2")) for i in "01"]
        forms = {
            "local, one worker": command(sys.executable),
            "two processes, --index and --of 2": ["sh", "-c", f"{two[0]} & {two[1]}; wait"],
        }
        if options.beam_python:
            forms["Apache Beam, its own runner"] = command(options.beam_python, "--runner", "beam")
        _compare(forms, output, text.stat().st_size / 1e6, options.rounds)


def _compare(forms: dict[str, list[str]], output: Path, megabytes: float, rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(rounds):
        for name in list(forms) if number % 2 == 0 else reversed(list(forms)):
            shutil.rmtree(output, ignore_errors=True)
            seconds[name].append(measure(forms[name]).cpu)
            if not (output / "md.yml").exists():
                raise SystemExit(f"{name}: made no dataset")
    local = next(iter(seconds.values()))
    print(f"\n{megabytes:.0f} MB, WordPiece, {rounds} rounds, medians")
    print("| form | MB per CPU-second | against the local command |\n|---|---|---|")
    for name, used in seconds.items():
        ratios = [a / b for a, b in zip(local, used, strict=True)]
        print(
            f"| {name} | {megabytes / statistics.median(used):.1f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
