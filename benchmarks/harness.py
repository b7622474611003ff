"""Timing programs against one another on a shared machine:

A B A B ..., medians of ratios of neighbours, peak memory of each.

Every contender is a child process of its own, built once and then asked in turn, so that neither
sees the other's memory or threads. `python -m benchmarks.harness MODULE:FUNCTION JSON-ARGUMENTS` is
such a child.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def directory_with(name: str) -> Callable[[str], Path]:
    """The type of an option: a directory that holds `name`, as an absolute path."""

    def directory(text: str) -> Path:
        if not (Path(text) / name).is_dir():
            raise argparse.ArgumentTypeError(f"{text!r}: is no directory with {name}/ in it")
        return Path(text).resolve()

    return directory


@dataclass(frozen=True)
class Contender:
    """A program to time:

    `target` ("module:function") called with `arguments` gives a callable(calls) -> seconds per unit
    of work. `checkout`: the directory of the repository whose code runs; `packages`: a directory
    with further packages (pip install --target).
    """

    name: str
    target: str
    arguments: tuple[Any, ...] = ()
    checkout: Path = ROOT
    packages: Path | None = None


@dataclass
class Result:
    """What was measured of a contender, a number per round: seconds per unit by the clock and of
    the processors; and the peak memory.

    `ratios`, `cpu_ratios`: the first contender's seconds over this one's in the same round; above 1
    is faster than the first. Processor time says who does less work even where other programs keep
    the machine busy.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    cpu_ratios: list[float] = field(default_factory=list)
    peak_mb: float = 0.0


class Child:
    """A contender in a process of its own."""

    def __init__(self, contender: Contender) -> None:
        self.name = contender.name
        command = [
            sys.executable,
            "-m",
            "benchmarks.harness",
            contender.target,
            json.dumps(contender.arguments),
        ]
        paths = [contender.checkout, *([contender.packages] if contender.packages else [])]
        self.process = subprocess.Popen(
            command,
            cwd=contender.checkout,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # whatever else the program prints is passed by
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(
            f"{self.name} ended with exit code {self.process.wait()} instead of answering"
        )

    def run(self, calls: int) -> dict[str, float]:
        """`seconds` and `cpu_seconds` per unit over so many calls, and `peak_mb` so far."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Let the process end, and see that it does."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def order_of(number: int, count: int) -> list[int]:
    """The order of round `number`: each contender begins as often as any other.

    Every second round goes backwards, since it matters who ran before. Of three or more none runs
    twice in a row: what follows itself finds its data in the processor's caches (of two equal
    readers it was 5 % faster).
    """
    start = number // 2
    if number % 2:
        return [(start + 1 - i) % count for i in range(count)]
    return [(start + i) % count for i in range(count)]


def alternate(contenders: Sequence[Contender], rounds: int, calls: int = 1) -> list[Result]:
    """Time the contenders in turn, `rounds` times; the first is the one that ratios are taken to.

    Every round begins with another one (`order_of`).
    """
    results = [Result(c.name) for c in contenders]
    children: list[Child] = []
    try:
        for (
            contender
        ) in contenders:  # one after the other: they would slow each other's compilation
            children.append(Child(contender))
        for number in range(rounds):
            for i in order_of(number, len(children)):
                measured = children[i].run(calls)
                results[i].seconds.append(measured["seconds"])
                results[i].cpu_seconds.append(measured["cpu_seconds"])
                results[i].peak_mb = measured["peak_mb"]
            for result in results:
                result.ratios.append(results[0].seconds[-1] / result.seconds[-1])
                result.cpu_ratios.append(results[0].cpu_seconds[-1] / result.cpu_seconds[-1])
    finally:
        for child in children:
            child.close()
    return results


def table(title: str, results: Sequence[Result], unit: str = "step") -> str:
    """The results as a Markdown table: medians of the rounds' ratios, 1.00 being the first
    contender.
    """
    lines = [
        f"| {title} | speed by the clock (lowest to highest) | by processor time | median "
        f"s/{unit} | peak RSS, MB |",
        "|---|---|---|---|---|",
    ]
    for r in results:
        clock, cpu = _spread(r.ratios), _spread(r.cpu_ratios)
        lines.append(
            f"| {r.name} | {clock} | {cpu} | {statistics.median(r.seconds):.4g} | "
            f"{r.peak_mb:,.0f} |"
        )
    return "\n".join(lines)


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _peak_mb() -> float:
    """Peak resident memory of this process.

    Not `ru_maxrss`: that one starts at the parent's size at the fork.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    if found is None:
        raise RuntimeError("/proc/self/status has no line VmHWM: peak memory is read on Linux only")
    return int(found[1]) / 1024


def _serve(target: str, arguments: list[Any]) -> None:
    module, function = target.split(":")
    program = getattr(importlib.import_module(module), function)(*arguments)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        begin, cpu_begin = time.perf_counter(), time.process_time()
        seconds = program(int(line))
        busy = (time.process_time() - cpu_begin) / (
            time.perf_counter() - begin
        )  # processors in use, on average
        print(
            json.dumps({"seconds": seconds, "cpu_seconds": seconds * busy, "peak_mb": _peak_mb()}),
            flush=True,
        )


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _serve(sys.argv[1], json.loads(sys.argv[2]))
