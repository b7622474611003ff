"""Speed and time left of a fine-tuning, whose first calls compile."""

from __future__ import annotations

import pytest

from tpu_tlm.training.finetuning.history import History, Pace


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_calls_that_compile_are_not_measured() -> None:
    clock = Clock()
    pace = Pace(100, clock)
    assert pace.seconds_left(100, 200) is None
    clock.now = 30.0
    assert not pace.called(0, 2, 30.0)
    assert pace.seconds_left(102, 200) is None
    clock.now = 35.0  # 4 steps in 4 seconds, and a second for an evaluation
    assert pace.called(0, 4, 4.0)
    assert pace.seconds_left(106, 200) == pytest.approx(94 * 5 / 4)
    clock.now = 55.0
    assert not pace.called(1, 1, 20.0), "each bucket has a program of its own"
    assert pace.seconds_left(107, 200) == pytest.approx(93 * 5 / 4)


def test_the_speed_is_that_of_measured_calls() -> None:
    history = History()
    assert history.speed is None and history.shown_speed == ""
    history.texts, history.seconds = 64, 0.5
    assert history.speed == 128.0 and "128 texts/s" in history.shown_speed
