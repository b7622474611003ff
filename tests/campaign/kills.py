"""One process killed or signalled at random moments, and continued to the same bits."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.campaign.forked import Child, Limits, Outcome, run, start
from tests.campaign.seeds import RUN, command
from tests.paths import ROOT
from tests.toy import toy_dataset, toy_pairs

STEPS = 40
LIMITS = Limits(seconds=300.0)
# What a run is asked for, by name: flags after those of every run.
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "mlm": ("--export_npz", "true"),
    "clm": ("--objective", "clm"),
    "electra": ("--objective", "electra"),
    "seq2seq": (
        "--objective",
        "seq2seq",
        "--denoise",
        "spans",
        "--noise_density",
        "0.4",
        "--mean_span",
        "2",
    ),
    "dual-encoder": ("--objective", "dual-encoder", "--d_out", "24", "--reduction_d_k", "8"),
}
SIGNALS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}


@dataclass
class Count:
    """What happened to the runs of one kind of trouble.

    done: kills or signals; inside: of those, in the middle of a save; fresh: with a new
    interpreter; compared: finished runs that were compared with an uninterrupted one; different:
    arrays or losses that were not the same; faults: anything else.
    """

    done: int = 0
    inside: int = 0
    fresh: int = 0
    early: int = 0
    compared: int = 0
    different: int = 0
    faults: list[str] = field(default_factory=list)


def prepare(base: Path) -> None:
    """Write the datasets."""

    def write(argv: list[str]) -> int:
        toy_dataset(base / "data")
        toy_dataset(base / "valid", examples=21, shards=1, seed=1)
        toy_pairs(base / "pairs")
        return 0

    if not (base / "pairs").exists():
        assert run(write, [], base / "said" / "data").code == 0


def flags_of(base: Path, objective: str, run_dir: Path, steps: int = STEPS) -> list[str]:
    """The command line of a run."""
    data = base / ("pairs" if objective == "dual-encoder" else "data")
    given = ["--train_dir", data, "--run_dir", run_dir, *RUN, *OBJECTIVES[objective]]
    given += ["--steps", steps, "--save_steps", steps // 20, "--keep", 3, "--dropout", "0.1"]
    return [str(value) for value in given]


def state_of(run_dir: Path) -> tuple[int, dict[str, np.ndarray], dict[int, float]]:
    """Step, arrays of the newest checkpoint, and loss by step."""
    from tpu_tlm.checkpoints.run_checkpoints import RunCheckpoints

    found = RunCheckpoints(str(run_dir / "checkpoints")).newest()
    losses = {}
    if (run_dir / "metrics.jsonl").exists():
        for line in (run_dir / "metrics.jsonl").read_text().splitlines():
            record = json.loads(line)
            if record["kind"] == "train":
                losses[record["step"]] = record["loss"]
    return (found.step, found.load(), losses) if found else (0, {}, losses)


def differences(run_dir: Path, whole: Path) -> int:
    """Number of arrays and losses of a finished run that are not those of the whole one."""
    step, arrays, losses = state_of(run_dir)
    other_step, others, other_losses = state_of(whole)
    names = {*arrays, *others}
    count = sum(
        name not in arrays or name not in others or arrays[name].tobytes() != others[name].tobytes()
        for name in names
    )
    return count + (step != other_step) + (losses != other_losses)


class Fresh:
    """A new interpreter that runs the command, with the face of `Child`."""

    def __init__(self, name: str, argv: list[str], place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.place, self.began = place, time.monotonic()
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        with open(place / "out", "wb") as out, open(place / "err", "wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"tpu_tlm.{name}", *argv],
                stdout=out,
                stderr=err,
                env=environ,
            )

    def poll(self) -> bool:
        return self.process.poll() is not None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> Outcome:
        timed_out = False
        try:
            self.process.wait(LIMITS.seconds)
        except subprocess.TimeoutExpired:
            timed_out = True
            self.process.kill()
            self.process.wait()
        said = [(self.place / name).read_text("utf-8", "replace") for name in ("out", "err")]
        return Outcome(self.process.returncode, time.monotonic() - self.began, 0, *said, timed_out)


def started(base: Path, argv: list[str], fresh: bool) -> Child | Fresh:
    """A process of the training command."""
    place = base / "said" / "train"
    if fresh:
        return Fresh("train", argv, place)
    return start(command("train"), argv, place, limits=LIMITS)


def half_written(run_dir: Path) -> set[tuple[str, int]]:
    """What a save in the middle shows: checkpoints without their manifest, temporary files.

    With the time of their last change: a save replaces what a kill before it left.
    """
    found = set()
    for path in (run_dir / "checkpoints").glob("*"):
        unfinished = path.name.startswith("step-") and not (path / "manifest.json").exists()
        if unfinished or path.name.endswith(".tmp"):
            with contextlib.suppress(OSError):
                found.add((path.name, path.stat().st_mtime_ns))
    return found


def kills(
    base: Path, count: int, seed: int = 0, fresh_every: int = 10, say: Callable[[str], None] = print
) -> Count:
    """Kill training `count` times by SIGKILL, every second time as soon as a save has begun."""
    prepare(base)
    found, chance, turn = Count(), random.Random(seed), 0
    names = list(OBJECTIVES)
    while found.done < count:
        objective = names[turn % len(names)]
        turn += 1
        whole, seconds = _whole(base, objective)
        run_dir = base / f"killed-{turn}"
        argv = flags_of(base, objective, run_dir)
        for _ in range(10):
            if found.done >= count:
                break
            fresh = bool(fresh_every) and found.done % fresh_every == fresh_every - 1
            child = started(base, argv, fresh)
            moment = chance.uniform(0.0, seconds * (1.6 if fresh else 0.9))
            before = half_written(run_dir)
            if found.done % 2:
                _until(
                    child,
                    lambda old=before, run=run_dir: bool(half_written(run) - old),
                    seconds * 8,
                )
                time.sleep(chance.uniform(0.0, 0.004))
            else:
                _until(
                    child,
                    lambda moment=moment, child=child: time.monotonic() - child.began > moment,
                    seconds * 8,
                )
            child.signal(signal.SIGKILL)
            outcome = child.wait()
            if outcome.code == 0:
                break  # it had finished
            if outcome.code != -signal.SIGKILL:
                found.faults.append(f"{objective}: exit code {outcome.code}: {outcome.err[-300:]}")
                break
            found.done += 1
            found.fresh += fresh
            found.inside += bool(half_written(run_dir) - before)
        _finish(found, base, argv, run_dir, whole, objective)
        say(
            f"kills: {found.done} of {count}, {found.inside} inside saves,"
            f" {found.different} differences, {len(found.faults)} faults"
        )
    return found


@functools.cache
def _whole(base: Path, objective: str, steps: int = STEPS) -> tuple[Path, float]:
    """An uninterrupted run, and its seconds."""
    whole = base / f"whole-{objective}-{steps}"
    outcome = started(base, flags_of(base, objective, whole, steps), False).wait()
    if outcome.code:
        raise RuntimeError(f"{objective}: {outcome.err[-2000:]}")
    return whole, outcome.seconds


def _until(child: Child | Fresh, condition: Callable[[], bool], limit: float) -> None:
    while not child.poll() and not condition() and time.monotonic() - child.began < limit:
        time.sleep(0.0005)


def _finish(
    found: Count, base: Path, argv: list[str], run_dir: Path, whole: Path, name: str
) -> None:
    """Let the same command finish the run, and compare it."""
    outcome = started(base, argv, False).wait()
    fault = _fault(outcome, (0,))
    if fault:
        found.faults.append(f"{name}, continuing: {fault}")
        return
    found.compared += 1
    found.different += differences(run_dir, whole)
    left = [
        p.name for p in (run_dir / "checkpoints").rglob("*") if p.name.endswith((".tmp", ".part"))
    ]
    if left or half_written(run_dir):
        found.faults.append(f"{name}: left half-written: {left}")
    shutil.rmtree(run_dir)


def _fault(outcome: Outcome, codes: tuple[int, ...]) -> str:
    if outcome.timed_out:
        return "hang"
    if "Traceback" in outcome.err:
        return outcome.err.strip().splitlines()[-1][:300]
    if outcome.code not in codes:
        return f"exit code {outcome.code}: {outcome.err[-300:]}"
    return ""


def signals(
    base: Path, count: int, seed: int = 0, fresh_every: int = 8, say: Callable[[str], None] = print
) -> Count:
    """Send SIGTERM, SIGINT and SIGHUP at random moments, some followed by another signal.

    Before the handlers stand, the system's own answer to the signal is right, too.
    """
    prepare(base)
    found, chance = Count(), random.Random(seed)
    # Longer runs: most signals must come while they train.
    steps = 10 * STEPS
    whole, seconds = _whole(base, "mlm", steps)
    turn = 0
    while found.done < count:
        turn += 1
        run_dir = base / f"signalled-{turn}"
        argv = flags_of(base, "mlm", run_dir, steps)
        for _ in range(5):
            if found.done >= count:
                break
            number = list(SIGNALS)[found.done % 3]
            fresh = bool(fresh_every) and found.done % fresh_every == fresh_every - 1
            child = started(base, argv, fresh)
            moment = chance.uniform(0.0, seconds * (1.6 if fresh else 0.95))
            if found.done % 4 != 3:
                # Most of them while it trains: not before the first line of metrics.
                size = _metrics(run_dir)
                _until(child, lambda size=size, run=run_dir: _metrics(run) > size, seconds * 8)
                moment = time.monotonic() - child.began + chance.uniform(0.0, 0.3)
            _until(
                child,
                lambda moment=moment, child=child: time.monotonic() - child.began > moment,
                seconds * 8,
            )
            child.signal(number)
            follows = number != signal.SIGINT and found.done % 2
            if follows:
                # What follows must not cut off a save.
                time.sleep(chance.uniform(0.0, 0.02))
                child.signal(chance.choice(list(SIGNALS)[:1] + list(SIGNALS)[2:]))
            outcome = child.wait()
            if outcome.code == 0:
                break
            found.done += 1
            found.fresh += fresh
            codes = (SIGNALS[number], -number, *((129, 143, -1, -15) if follows else ()))
            fault = _fault(outcome, codes)
            if fault:
                found.faults.append(f"{signal.Signals(number).name}: {fault}")
            elif outcome.code < 0:
                found.early += 1
                if "Traceback" in outcome.err:
                    found.faults.append(outcome.err[-300:])
            elif outcome.code != 130 or "interrupted" not in outcome.err:
                if "saved in" not in outcome.err:
                    found.faults.append(f"{signal.Signals(number).name}: {outcome.err[-300:]}")
            else:
                found.early += 1
        _finish(found, base, argv, run_dir, whole, "mlm")
        say(
            f"signals: {found.done} of {count}, {found.early} before training,"
            f" {found.different} differences, {len(found.faults)} faults"
        )
    return found


def _metrics(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0
