"""What has happened in a fine-tuning, and how fast it trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tpu_tlm.data.progress import quantity


@dataclass
class History:
    """What has happened, as JSON values: a line per epoch, and the best so far."""

    epochs: list[dict[str, Any]] = field(default_factory=list)
    best: float | None = None
    best_epoch: int = 0
    # Loss sum and weight of the epoch so far; seconds and texts of the calls that compiled nothing.
    loss: float = 0.0
    weight: float = 0.0
    seconds: float = 0.0
    texts: int = 0

    @property
    def speed(self) -> float | None:
        """Texts a second in the epoch so far; None while every call has compiled."""
        return round(self.texts / self.seconds, 1) if self.texts and self.seconds else None

    @property
    def shown_speed(self) -> str:
        """The speed as the end of a line."""
        return "" if self.speed is None else f"  {quantity(self.speed)} texts/s"


class Pace:
    """Counts calls of the training loop; the first of each bucket compiles and is not measured.

    first: the step at which this process begins; clock: seconds.
    """

    def __init__(self, first: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first, self._since = first, clock()
        self._compiled: set[int] = set()
        # Of the calls that compiled.
        self._steps, self._seconds = 0, 0.0

    def called(self, bucket: int, steps: int, seconds: float) -> bool:
        """Note a call; returns whether its time is that of training alone."""
        if bucket in self._compiled:
            return True
        self._compiled.add(bucket)
        self._steps += steps
        self._seconds += seconds
        return False

    def seconds_left(self, step: int, total: int) -> float | None:
        """Wall time to step `total`, with evaluations and saves as so far; None while unknown."""
        measured = step - self._first - self._steps
        if measured <= 0:
            return None
        return (total - step) * (self._clock() - self._since - self._seconds) / measured
