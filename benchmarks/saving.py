"""What a checkpoint costs the steps beside it, and its peak memory: python -m benchmarks.saving.

    python -m benchmarks.saving --before CHECKOUT     against another checkout of this repository
    python -m benchmarks.saving --bucket 50           in a bucket that takes 50 MB/s (emulator)
    python -m benchmarks.saving --alone               the save of 1.3 GB alone, without training

Each round trains in a process of its own, the checkouts in turn, and saves several times.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Sizes: flags, words of the vocabulary, steps between saves.
SIZES: dict[str, tuple[list[str], int, int]] = {
    # BERT-base with short texts, so that a step of a processor is short: 1.3 GB with slots.
    "base": (
        "--d_model 768 --d_ff 3072 --num_heads 12 --num_layers 12 --batch_size 2".split(),
        30517,
        8,
    ),
    "small": (
        "--d_model 256 --d_ff 1024 --num_heads 4 --num_layers 4 --batch_size 64".split(),
        30517,
        60,
    ),
    "toy": ("--d_model 32 --d_ff 64 --num_heads 2 --num_layers 1 --batch_size 8".split(), 40, 20),
}
SAVES = 2


def _status(name: str) -> float:
    """A value of this process's status in MB: VmRSS, VmHWM (the peak since it was reset)."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{name}:\s+(\d+) kB", text)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no line {name}: memory is read on Linux only")
    return int(found[1]) / 1024


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def measure(data: str, run_dir: str, flags: list[str], interval: int) -> dict[str, Any]:
    """Train with a save every `interval` steps; what the saves cost, as medians.

    first, stopped: seconds from one device call to the next, beyond those without a save, at the
    first save, which takes memory for its copies, and at later ones; lost, cpu:
    seconds of the steps beside a save beyond as many after it, by the clock and of the processors
    (where there is no room, of all steps from save to save beyond their second half); share: lost
    over the time from save to save; peak: MB over the peak of steps without a save; thread:
    processor seconds of the thread that saves, by which `train` spaces saves where none are asked
    for: a hundred times as much from save to save, on a processor.
    """
    from tpu_tlm.config import Config, cli
    from tpu_tlm.training import Callback, train

    steps: list[dict[str, float]] = []
    peaks: dict[bool, list[float]] = {True: [], False: []}
    busy: list[float] = []
    ended: dict[int, int] = {}

    class Recorder(Callback):
        def on_save(self, report: Any) -> None:
            # A checkout from before 28 November 2026 does not count it.
            busy.append(getattr(report, "processor_seconds", 0.0))
            ended[report.step] = len(steps)

        def on_step(self, report: Any) -> None:
            steps.append(
                {
                    "time": time.perf_counter(),
                    "cpu": time.process_time(),
                    "call": report.seconds,
                }
            )
            # The first steps hold the save, those from the middle on do not, if it has ended.
            after = report.step % interval
            if after == 0 or after == interval // 2:
                if report.step >= interval:
                    peaks[after != 0].append(_status("VmHWM"))
                _reset_peak()

    total = interval * (SAVES + 1)
    given = ["--train_dir", data, "--run_dir", run_dir, "--steps", str(total), "--keep", "1"]
    given += ["--save_steps", str(interval), "--steps_per_call", "1", "--distribute", "none"]
    given += ["--warmup_steps", "1", "--tensorboard", "false", "--grace_seconds", "0", *flags]
    config = Config(*cli.parse("benchmark", "", Config.groups(), given))
    train(config, callbacks=[Recorder()], display=False)

    def between(name: str, first: int, last: int) -> float:
        """The sum of a clock between two steps, counted from 1."""
        return steps[last - 1][name] - steps[first - 1][name]

    quiet = [s for s in range(interval // 2 + 1, total) if s % interval > interval // 2]
    # The mean, since what disturbs the machine raises steps with and without a save alike.
    usual = {n: statistics.fmean(between(n, s, s + 1) for s in quiet) for n in ("time", "cpu")}
    gap = statistics.median(between("time", s, s + 1) - steps[s]["call"] for s in quiet)
    saved = [interval * (k + 1) for k in range(SAVES)]
    whole = [between("time", s, s + interval) for s in saved]

    def beside(name: str, save: int) -> float:
        """What the steps beside a save took more than others close to it: machines drift."""
        end = ended[save] + 1
        after = min(2 * end - save, save + interval)
        if after - end < (end - save) // 2:
            return between(name, save, save + interval) - interval * usual[name]
        rate = between(name, end, after) / (after - end)
        return between(name, save, end) - (end - save) * rate

    lost = [beside("time", s) for s in saved]
    cpu = [beside("cpu", s) for s in saved]
    stopped = [between("time", s, s + 1) - steps[s]["call"] - gap for s in saved]
    # peaks[True]: read at the middle, so of the half with the save.
    return {
        "step": usual["time"],
        "first": stopped[0],
        "stopped": statistics.median(stopped[1:]),
        "lost": statistics.median(lost),
        "cpu": statistics.median(cpu),
        "share": sum(lost) / sum(whole),
        "peak": max(peaks[True]) - min(peaks[False]),
        "thread": statistics.median(busy),
    }


def alone(directory: str, layers: int = 12) -> dict[str, float]:
    """Save BERT-base's parameters and slots once, as the trainer does, without steps beside it.

    `layers`: fewer for a test.

    stopped, stopped_cpu: seconds that the trainer waits, by the clock and of the processors; cpu:
    processor seconds of the whole save; peak: MB above the memory before it.
    """
    import numpy as np
    import tensorflow as tf

    from tpu_tlm.checkpoints.manager import Checkpoints
    from tpu_tlm.training.state import TrainState

    shapes = [(768, 2304), (768, 768), (768, 3072), (3072, 768), (768,), (768,)] * layers
    state: Any = TrainState.__new__(TrainState)
    state.strategy, state._named, state._divided = None, {}, {}
    for part in ("model", "slots/m", "slots/v"):
        for number, shape in enumerate([*shapes, (30522, 768)]):
            state._named[f"{part}/{number}"] = tf.Variable(tf.zeros(shape))
    checkpoints = Checkpoints(directory, 1)
    _reset_peak()
    memory, began, cpu = _status("VmRSS"), time.perf_counter(), time.process_time()

    def since() -> tuple[float, float]:
        return time.perf_counter() - began, time.process_time() - cpu

    background = hasattr(state, "snapshot")  # older checkouts save before the next step
    # Checkouts from before 29 November 2026 have no copies of what the host holds.
    copies = background and "trains_on" in inspect.signature(state.snapshot).parameters
    if copies:
        state._host_copies = {}
        values = state.snapshot(trains_on=True)
    else:
        values = state.snapshot() if background else state.arrays()
    copied = since()
    for value in values.values():
        assert np.isfinite(np.asarray(value)).all()
    checkpoints.save(1, values, {})
    stopped = copied if background else since()
    return {
        "stopped": stopped[0],
        "stopped_cpu": stopped[1],
        "cpu": since()[1],
        "peak": _status("VmHWM") - memory,
    }


@contextlib.contextmanager
def _place(bucket_rate: float) -> Iterator[tuple[str, dict[str, str]]]:
    """A directory for a run, and the environment to reach it: local, or a throttled bucket."""
    if not bucket_rate:
        with tempfile.TemporaryDirectory(prefix="saving_") as local:
            yield f"{local}/run", {}
        return
    sys.path.insert(0, str(ROOT))
    from benchmarks.discarding_bucket import DiscardingBucket
    from tests.bucket import NAME

    with DiscardingBucket(bucket_rate * 1e6) as bucket:
        yield f"gs://{NAME}/run", bucket.environ


def _child(checkout: Path, data: str, options: argparse.Namespace) -> dict[str, float]:
    """A round in a process of its own, with the package of a checkout."""
    flags, _, interval = SIZES[options.size]
    arguments = json.dumps([data, [*flags, *options.flags.split()], options.interval or interval])
    if options.alone:
        arguments = "alone"
    with _place(options.bucket) as (run_dir, environ):
        done = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), "--child", arguments, run_dir],
            env={**os.environ, **environ, "PYTHONPATH": str(checkout), "TF_CPP_MIN_LOG_LEVEL": "3"},
            cwd=checkout,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{checkout}: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def table(title: str, results: dict[str, list[dict[str, float]]]) -> str:
    """Medians of the rounds with the lowest and highest, as a Markdown table."""
    columns = {
        "first": "training stands still at the first save, s",
        "stopped": "training stands still, s per save",
        "stopped_cpu": "of that processor time, s",
        "lost": "lost by the steps in all, s per save",
        "cpu": "processor time, s per save",
        "thread": "processor time of the thread that saves, s",
        "share": "share of the time, %",
        "peak": "peak memory of a save, MB",
        "step": "step, s",
    }
    measured = {name for rounds in results.values() for one in rounds for name in one}
    columns = {name: text for name, text in columns.items() if name in measured}
    lines = [f"| {title} | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    for name, rounds in results.items():
        cells = []
        for column in columns:
            values = [r[column] * (100 if column == "share" else 1) for r in rounds]
            middle, low, high = statistics.median(values), min(values), max(values)
            cells.append(f"{middle:.3g} ({low:.3g} to {high:.3g})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print a table; the other checkout, if any, is measured in turn with this one."""
    if sys.argv[1:2] == ["--child"]:
        if sys.argv[2] == "alone":
            print(json.dumps(alone(sys.argv[3])))
            return
        data, flags, interval = json.loads(sys.argv[2])
        print(json.dumps(measure(data, sys.argv[3], flags, interval)))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--interval", type=int, help="steps from save to save")
    parser.add_argument("--bucket", type=float, default=0.0, help="MB/s of an emulated bucket")
    parser.add_argument("--alone", action="store_true", help="one save, without training")
    parser.add_argument("--flags", default="", help="more flags of train, in one argument")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.toy import toy_dataset

    checkouts = {"before": options.before.resolve()} if options.before else {}
    checkouts["this checkout"] = ROOT
    results: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    place = Path(tempfile.mkdtemp(prefix="saving_data_"))
    try:
        data = str(toy_dataset(place / "data", words=SIZES[options.size][1], examples=512))
        for number in range(options.rounds):
            order = list(checkouts) if number % 2 == 0 else list(reversed(checkouts))
            for name in order:
                results[name].append(_child(checkouts[name], data, options))
                print(name, results[name][-1], file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(place)
    print(table(options.size, results))


if __name__ == "__main__":
    main()
