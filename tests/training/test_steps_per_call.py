"""Steps per call: from how long calls and saves took."""

from __future__ import annotations

import pytest

from tpu_tlm.training.steps_per_call import CALL_SECONDS, StepsPerCall


def paced(most: int, grace: float, call: float = 0.1, save: float = 0.0) -> StepsPerCall:
    """After a first call that compiled and one of a step in `call` seconds."""
    pace = StepsPerCall(most, grace)
    pace.saved(save)
    pace.called(1, 100.0)
    assert pace.steps == 1, "the first call compiles and tells nothing"
    pace.called(1, call)
    return pace


def test_a_call_takes_about_its_time() -> None:
    assert paced(1000, 0.0).steps == int(CALL_SECONDS / 0.1) == paced(1000, 60.0).steps
    assert paced(7, 0.0).steps == 7
    assert paced(1000, 0.0, call=60.0).steps == 1
    pace = paced(1000, 0.0)
    pace.called(50, 25.0)  # slower than before
    assert pace.steps == 10
    pace.called(10, 0.0)
    assert pace.steps == 1000


@pytest.mark.parametrize(
    ("grace", "save"), [(25.0, 0.0), (25.0, 5.0), (25.0, 12.0), (8.0, 0.5), (300.0, 60.0)]
)
def test_a_call_twice_as_long_and_a_save_half_as_long_again_fit_into_the_grace(
    grace: float, save: float
) -> None:
    pace = paced(10**6, grace, call=0.01, save=save)
    assert pace.steps > 1
    assert 2 * 0.01 * pace.steps + 1.5 * save <= grace - 2.0 + 1e-9
    assert 0.01 * pace.steps <= CALL_SECONDS


def test_a_save_that_does_not_fit_is_said_once() -> None:
    pace = paced(100, 10.0)
    assert pace.saved(2.0) == ""
    warning = pace.saved(7.0)
    assert "7 s" in warning and "--grace_seconds 10" in warning
    assert pace.saved(7.0) == ""
    pace.called(1, 0.1)
    assert pace.steps == 1
    assert paced(100, 0.0).saved(1e4) == ""
