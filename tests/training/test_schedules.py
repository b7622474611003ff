from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tpu_tlm.config import OptimConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.training.schedules import make_schedule, warmup_of

LR = 3e-4
KINDS = ("linear", "cosine", "rsqrt", "wsd", "constant")
ENDING = ("linear", "cosine", "wsd")


def _rates(total: int, **options) -> np.ndarray:
    return make_schedule(OptimConfig(lr=LR, **options), total)(
        tf.range(total, dtype=tf.int64)
    ).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_starts_above_zero_and_reaches_the_peak(kind: str) -> None:
    rates = _rates(100, lr_schedule=kind, warmup_steps=10)
    np.testing.assert_allclose(rates[:10], LR * (np.arange(10) + 1) / 10, rtol=1e-6)
    assert np.argmax(rates) == 9 or kind in ("wsd", "constant")
    assert rates.max() <= np.float32(LR) * (1 + 1e-6) and rates[10] > 0.9 * LR


@pytest.mark.parametrize("kind", ENDING)
@pytest.mark.parametrize("end", [0.0, 0.1])
@pytest.mark.parametrize(
    ("total", "warmup"),
    [(100, 10), (100, 0), (100, 1), (100, 99), (2, 1), (2, 0), (7, 3), (1000, 137)],
)
def test_the_last_update_has_exactly_the_end(
    kind: str, end: float, total: int, warmup: int
) -> None:
    rates = _rates(total, lr_schedule=kind, warmup_steps=warmup, lr_end=end)
    assert rates[-1] == np.float32(LR) * np.float32(end)
    np.testing.assert_allclose(rates[max(warmup - 1, 0)], LR, rtol=1e-6)
    assert (rates[:-1] > rates[-1]).all() or warmup, "the end is not reached before the last update"
    assert (np.diff(rates[max(warmup - 1, 0) :]) <= 0).all()


def test_the_formulas() -> None:
    k = np.arange(200)
    progress = np.clip((k - 19) / (199 - 19), 0, 1)
    warm = k < 19
    want = {
        "linear": 0.1 + 0.9 * (1 - progress),
        "cosine": 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * progress)),
        "rsqrt": np.sqrt(20 / (k + 1)),
        "wsd": 0.1 + 0.9 * np.clip((199 - k) / 50, 0, 1),
        "constant": np.ones(200),
    }
    for kind, shape in want.items():
        rates = _rates(200, lr_schedule=kind, warmup_steps=20, lr_end=0.1, wsd_decay=0.25)
        np.testing.assert_allclose(
            rates, LR * np.where(warm, (k + 1) / 20, shape), rtol=2e-6, err_msg=kind
        )


@pytest.mark.parametrize("kind", KINDS)
def test_no_jump_anywhere(kind: str) -> None:
    rates = _rates(1000, lr_schedule=kind, warmup_steps=100, wsd_decay=0.2)
    assert np.abs(np.diff(rates)).max() <= LR / 100 * 1.001


def test_wsd_is_flat_between_and_its_decay_may_take_everything() -> None:
    rates = _rates(100, lr_schedule="wsd", warmup_steps=10, wsd_decay=0.1)
    np.testing.assert_allclose(rates[9:90], LR, rtol=1e-6)
    assert rates[90] < LR * 0.95
    np.testing.assert_allclose(
        _rates(100, lr_schedule="wsd", warmup_steps=10, wsd_decay=1.0),
        _rates(100, lr_schedule="linear", warmup_steps=10),
        rtol=1e-6,
    )
    assert _rates(100, lr_schedule="wsd", warmup_steps=10, wsd_decay=0.0)[-2] == np.float32(LR)


def test_beyond_the_end_it_stays_and_a_single_update_uses_the_peak() -> None:
    schedule = make_schedule(
        OptimConfig(lr=LR, lr_schedule="cosine", warmup_steps=5, lr_end=0.1), 50
    )
    assert float(schedule(tf.constant(500))) == np.float32(LR) * np.float32(0.1)
    assert _rates(1, lr_schedule="linear", warmup_steps=0).tolist() == [np.float32(LR)]


@pytest.mark.parametrize("kind", ENDING)
def test_compiled_by_xla_the_ends_are_still_exact(kind: str) -> None:
    schedule = tf.function(
        make_schedule(OptimConfig(lr=LR, lr_schedule=kind, warmup_steps=7, lr_end=0.0), 1003),
        jit_compile=True,
    )
    assert float(schedule(tf.constant(1002, tf.int32))) == 0.0
    assert float(schedule(tf.constant(1001, tf.int32))) > 0.0
    np.testing.assert_allclose(schedule(tf.constant(6)), LR, rtol=1e-6)
    assert schedule(tf.constant(3)).dtype == tf.float32 and schedule(tf.constant(3)).shape == ()


@pytest.mark.parametrize(
    ("total", "warmup"),
    [(1, 0), (9, 0), (10, 1), (1000, 100), (99_999, 9999), (100_000, 10_000), (1_000_000, 10_000)],
)
def test_the_warm_up_that_nobody_asked_for(total: int, warmup: int) -> None:
    assert warmup_of(OptimConfig(), total) == warmup
    assert warmup_of(OptimConfig(warmup_steps=0), total) == 0
    if total <= 1000:
        np.testing.assert_array_equal(_rates(total), _rates(total, warmup_steps=warmup))


def test_a_warm_up_that_does_not_fit_names_the_mend() -> None:
    with pytest.raises(
        UsageError, match=r"--warmup_steps 10000 is not below the 1000 steps.*--warmup_steps 100\b"
    ):
        make_schedule(OptimConfig(warmup_steps=10000), 1000)
    with pytest.raises(UsageError, match="--warmup_steps 10"):
        make_schedule(OptimConfig(warmup_steps=10), 10)


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"lr": 0.0}, "lr "),
        ({"lr": float("nan")}, "lr "),
        ({"lr_end": 1.5}, "lr_end"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"lr_schedule": "wsd", "wsd_decay": 2.0}, "wsd_decay"),
    ],
)
def test_impossible_numbers_are_refused(options: dict, flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        make_schedule(OptimConfig(**{"warmup_steps": 1, **options}), 100)
