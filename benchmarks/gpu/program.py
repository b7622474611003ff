"""What a timed program is, and how it is served to the harness."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.exported import Exported, read
from tpu_tlm.errors import UsageError

WARM_UP = 3


class Program(ABC):
    """A training step on one device; every call of `step` is the next step, on the next batch
    (they come round again).
    """

    @abstractmethod
    def step(self) -> Any:
        """Start the next step; its mean loss, which may not be there yet."""

    @abstractmethod
    def wait(self) -> None:
        """Until everything that was started has ended."""

    @property
    @abstractmethod
    def device(self) -> tuple[str, str]:
        """Platform ("gpu", "cpu") and what the device calls itself ("NVIDIA H200")."""

    @abstractmethod
    def peak_bytes(self) -> int | None:
        """The most memory of the device in use so far; None where the device does not say."""

    @abstractmethod
    def versions(self) -> str:
        """Of the libraries that it stands on."""


@dataclass(frozen=True)
class Report:
    """What a program says of itself once it has warmed up: losses of its first steps, and
    seconds from start to the end of the first.
    """

    platform: str
    device: str
    losses: list[float]
    start_seconds: float
    peak_bytes: int | None
    versions: str


def read_report(file: Path) -> Report:
    """The report that a child wrote."""
    return Report(**json.loads(file.read_text()))


def plain_only(exported: Exported) -> None:
    """Raise `UsageError` for an export that the plain programs do not know."""
    if not exported.manifest.plain:
        raise UsageError(
            f"{exported.directory}: the plain programs know BERT with AdamW only; here "
            f"{exported.manifest.not_plain}"
        )


def serve(
    make: Callable[[Exported], Program], directory: str, report: str, first: int
) -> Callable[[int], float]:
    """Make the program, take its `first` first steps one by one, warm up, write the report; then
    a callable(steps) -> seconds per step.
    """
    began = time.perf_counter()
    program = make(read(Path(directory)))
    losses = [float(program.step())]
    started = time.perf_counter() - began
    losses += [float(program.step()) for _ in range(first - 1)]
    for _ in range(WARM_UP):
        program.step()
    program.wait()
    written = Report(*program.device, losses, started, program.peak_bytes(), program.versions())
    Path(report).write_text(json.dumps(asdict(written)))

    def run(steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            program.step()
        program.wait()
        return (time.perf_counter() - begin) / steps

    return run
