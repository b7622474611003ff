"""Validation loss over the time that training takes, evaluations left out of it.

Needs the standard library alone: programs with packages of their own write curves too.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Curve:
    """What was measured of a training run.

    times: (steps made, seconds by the clock, seconds of the processors) at the end of device calls,
    from the beginning of the first one, which compiles. losses: (steps made, validation loss).
    """

    times: list[tuple[int, float, float]] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)

    def seconds(self, step: float) -> tuple[float, float]:
        """Seconds by the clock and of the processors until so many steps were made.

        Between the ends of two calls on a straight line. Raises ValueError past the last one.
        """
        before = (0, 0.0, 0.0)
        for after in self.times:
            if step <= after[0]:
                share = (step - before[0]) / (after[0] - before[0])
                clock, cpu = (before[i] + share * (after[i] - before[i]) for i in (1, 2))
                return clock, cpu
            before = after
        raise ValueError(f"{step} steps were not made, only {before[0]}")

    def compilation(self) -> tuple[float, float]:
        """Seconds (clock, processors) of the first call above those of as many later steps."""
        if len(self.times) < 2:
            raise ValueError("one device call does not show what its compilation took")
        first, last = self.times[0], self.times[-1]
        share = first[0] / (last[0] - first[0])
        clock, cpu = (max(0.0, first[i] - share * (last[i] - first[i])) for i in (1, 2))
        return clock, cpu

    def reaches(self, loss: float) -> float | None:
        """Steps after which the validation loss is first at most `loss`, None if it never is.

        On the straight line between two evaluations; never before the first evaluation.
        """
        before: tuple[int, float] | None = None
        for step, value in self.losses:
            if value <= loss:
                if before is None:
                    return float(step)
                return before[0] + (step - before[0]) * (before[1] - loss) / (before[1] - value)
            before = step, value
        return None

    def save(self, path: Path) -> None:
        """Write the curve; the file is there only when it is complete."""
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(asdict(self)), encoding="utf-8")
        os.replace(part, path)

    @classmethod
    def load(cls, path: Path) -> Curve:
        """The curve in a file."""
        found = json.loads(path.read_text(encoding="utf-8"))
        return cls([(a, b, c) for a, b, c in found["times"]], [(a, b) for a, b in found["losses"]])


class Stopwatch:
    """Records a `Curve` inside the process that trains."""

    def __init__(self) -> None:
        self.curve = Curve()
        self._clock = self._cpu = 0.0
        self.go()

    def go(self) -> None:
        """Count from here; the time since `steps` is left out."""
        self._since = time.perf_counter(), time.process_time()

    def steps(self, made: int) -> None:
        """So many steps were made until now."""
        clock, cpu = time.perf_counter(), time.process_time()
        self._clock += clock - self._since[0]
        self._cpu += cpu - self._since[1]
        self._since = clock, cpu
        self.curve.times.append((made, self._clock, self._cpu))

    def loss(self, made: int, value: float) -> None:
        """An evaluation after so many steps has ended; its time is left out."""
        self.curve.losses.append((made, value))
        self.go()


@dataclass(frozen=True)
class Run:
    """A row of the table: a program and its curve, whose last loss is the final one."""

    name: str
    curve: Curve

    @property
    def final(self) -> tuple[int, float]:
        """Steps and validation loss at the end."""
        return self.curve.losses[-1]


def table(runs: Sequence[Run], target: Run) -> str:
    """The runs as a Markdown table, with the time to the final loss of `target`.

    Times are without compilation, except in the last column; `x` is the ratio to those in which
    `target` made all its steps.
    """
    steps, loss = target.final
    lines = [
        f"| program | steps | validation loss | s of the processors | s by the clock "
        f"| to {loss:.3f}: steps | s of the processors | s by the clock | with compilation |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    base = _times(target.curve, steps)
    for run in runs:
        made, final = run.final
        clock, cpu, _ = _times(run.curve, made)
        at = float(steps) if run is target else run.curve.reaches(loss)
        cells = [run.name, f"{made:,}", f"{final:.3f}", f"{cpu:.1f}", f"{clock:.1f}"]
        if at is None:
            cells += ["not reached", "", "", ""]
        else:
            # Where the first evaluation is below it already, the loss was reached before.
            bound = run is not target and at == run.curve.losses[0][0]
            cells.append(f"at most {at:,.0f}" if bound else f"{at:,.0f}")
            found = _times(run.curve, at)
            for i in (1, 0, 2):
                cells.append(f"{found[i]:.1f} ({found[i] / base[i]:.2f} x)")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _times(curve: Curve, step: float) -> tuple[float, float, float]:
    """Seconds to a step: by the clock, of the processors, and those with compilation."""
    clock, cpu = curve.seconds(step)
    clock_less, cpu_less = curve.compilation()
    return clock - clock_less, cpu - cpu_less, cpu
