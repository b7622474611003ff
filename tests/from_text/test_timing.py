"""The watch on the time of a run."""

from __future__ import annotations

import pytest

from tpu_tlm.from_text.timing import KeepTime
from tpu_tlm.training.callbacks import StepReport


def _run(second: float, end: float, total: int = 1000, latest: float = 0.7) -> KeepTime:
    now = [0.0]
    watch = KeepTime(end, latest, lambda: now[0])
    for step in range(10, total + 1, 10):
        now[0] += 10 * second
        watch.on_step(StepReport(step, 10, total, second, {}, {}))
    return watch


def test_a_run_in_time_is_left_alone() -> None:
    assert _run(0.1, 100.0).steps is None
    assert _run(0.1, 95.0).steps is None, "a little late is in time"


def test_a_slow_run_gets_fewer_steps_before_the_rate_falls() -> None:
    now = [0.0]
    watch = KeepTime(100.0, 0.7, lambda: now[0])
    with pytest.raises(KeyboardInterrupt):
        for step in range(10, 1001, 10):
            now[0] += 10 * 0.2
            watch.on_step(StepReport(step, 10, 1000, 0.2, {}, {}))
    assert step == 250 and watch.steps == pytest.approx(490, abs=15)
    # The steps that were made had the rate of a run of `steps`, too.
    assert step <= 0.7 * watch.steps
