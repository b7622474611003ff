"""The metrics of a run as curves of bounded size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

# Points of a curve that a page draws; a plot is about this many pixels wide.
LIMIT = 800
# Different metrics of one run; a file with more is not one that a run wrote.
MAX_METRICS = 64
# Keys of a record of metrics.jsonl that are no metrics.
_HEAD = ("step", "kind", "time")
# A step is drawn by JavaScript, whose whole numbers end here.
_LARGEST_STEP = 2**53
# Seconds since 1970; a larger time is a fault of the file.
_LATEST = 1e11


class Point(NamedTuple):
    """Mean of `records` successive records: the last one's step and time, the mean value."""

    step: int
    seconds: float
    value: float
    records: int = 1


class Curve:
    """Points of one metric in the order of the steps; at most `LIMIT`, thinned by averaging."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.every = 1

    def add(self, step: int, seconds: float, value: float) -> None:
        """Append one record; takes constant time on average."""
        point = Point(step, seconds, value)
        if self.points and self.points[-1].records < self.every:
            self.points[-1] = _merged(self.points[-1], point)
        else:
            self.points.append(point)
        if len(self.points) > LIMIT:
            old = self.points
            self.points = [_merged(*pair) for pair in zip(old[::2], old[1::2], strict=False)]
            self.points += old[len(self.points) * 2 :]
            self.every *= 2


def _merged(a: Point, b: Point) -> Point:
    records = a.records + b.records
    # Each part is divided first: the sum of two large values may overflow.
    value = a.value * (a.records / records) + b.value * (b.records / records)
    return Point(b.step, b.seconds, value, records)


class History:
    """What metrics.jsonl says of a run, in bounded memory.

    curves: (metric, kind of record) -> curve; latest: the last value of each; best: (value, step)
    of the lowest validation loss, None without one; step: the last one; seconds: time of training,
    from the first record, without the pauses between processes of a continued run; left_out: names
    of metrics beyond `MAX_METRICS`.
    """

    def __init__(self) -> None:
        self.curves: dict[tuple[str, str], Curve] = {}
        self.latest: dict[tuple[str, str], float] = {}
        self.best: tuple[float, int] | None = None
        self.step = 0
        self.seconds = 0.0
        self.left_out: set[str] = set()
        self._before: float | None = None

    def add(self, record: Mapping[str, Any]) -> None:
        """Add one record of metrics.jsonl; values that are no finite numbers are no points."""
        step, kind = record["step"], record["kind"]
        if not 0 <= step < _LARGEST_STEP:
            return
        self.step = max(self.step, step)
        self._add_time(record.get("time"), starts=kind == "train" and "step_time" not in record)
        for name, value in record.items():
            if name not in _HEAD and _is_finite(value):
                self._add_value(name, kind, step, float(value))

    def _add_time(self, now: Any, *, starts: bool) -> None:
        """starts: the record is the first of a process, so that a pause may lie before it."""
        if not _is_finite(now) or not 0 <= now < _LATEST:
            return
        if self._before is not None and not starts:
            self.seconds += max(0.0, now - self._before)
        self._before = now

    def _add_value(self, name: str, kind: str, step: int, value: float) -> None:
        key = (name, kind)
        if key not in self.curves:
            if len(self.curves) >= MAX_METRICS:
                self.left_out.add(name)
                return
            self.curves[key] = Curve()
        self.curves[key].add(step, self.seconds, value)
        self.latest[key] = value
        lower = self.best is None or value < self.best[0]
        if key == ("loss", "valid") and lower:
            self.best = (value, step)

    def at(self, name: str, kind: str, step: int) -> float | None:
        """The value of exactly this step, None where there is none or it was averaged."""
        curve = self.curves.get((name, kind), Curve())
        found = [p.value for p in curve.points if p.step == step and p.records == 1]
        return found[-1] if found else None


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
