"""Learning-rate schedules: index of an update -> its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from tpu_tlm.config import OptimConfig
from tpu_tlm.errors import UsageError

Schedule = Callable[[tf.Tensor], tf.Tensor]


def _check(config: OptimConfig, total_steps: int) -> None:
    if total_steps < 1:
        raise UsageError(f"--steps {total_steps}: a run has at least one step")
    if config.warmup_steps is None:
        return
    if config.warmup_steps >= total_steps:
        raise UsageError(
            f"--warmup_steps {config.warmup_steps} is not below the {total_steps} steps of the run:"
            f" use fewer (such as --warmup_steps {total_steps // 10}), or more --steps"
        )


def warmup_of(config: OptimConfig, total_steps: int) -> int:
    """Updates of the warm-up: as given, else a tenth of the run, at most BERT's 10,000."""
    return config.warmup_steps if config.warmup_steps is not None else min(10000, total_steps // 10)


def make_schedule(config: OptimConfig, total_steps: int) -> Schedule:
    """A pure function: index of the update (integer scalar, from 0) -> learning rate, float32.

    Update k of the warm-up has lr * (k + 1) / warmup_steps, so its last one has lr. After it,
    linear, cosine and wsd decay to exactly lr * lr_end at the last update, total_steps - 1, and
    stay there; rsqrt is lr * sqrt(warmup_steps / (k + 1)) and, like constant, has no end. A run of
    a single update uses lr. Raises `UsageError` when the warm-up does not fit the run or a number
    is impossible.
    """
    _check(config, total_steps)
    last, warmup_steps = total_steps - 1, warmup_of(config, total_steps)
    # The decay starts at this update, whose learning rate is still lr.
    start = max(warmup_steps - 1, 0)
    if config.lr_schedule == "wsd":
        start = max(start, last - max(1, round(config.wsd_decay * total_steps)))
    if config.lr_schedule not in SCHEDULES:
        raise UsageError(f"--lr_schedule {config.lr_schedule}: not one of {', '.join(SCHEDULES)}")
    shape = SCHEDULES[config.lr_schedule]
    end = config.lr_end

    def schedule(step: tf.Tensor) -> tf.Tensor:
        count = tf.cast(step, tf.float32) + 1.0
        # Counted down from the end: exactly 0 at the last update, however the device divides.
        left = tf.cast(last - tf.cast(step, tf.int64), tf.float32) / float(max(last - start, 1))
        left = tf.clip_by_value(left, 0.0, 1.0) if last > start else tf.ones_like(left)
        after = shape(left, end, count, float(max(warmup_steps, 1)))
        warmup = count / float(max(warmup_steps, 1))
        return config.lr * tf.where(count < warmup_steps, warmup, after)

    return schedule


# Each schedule: (left, end, count, warmup) -> learning rate as a share of lr, after the warm-up.
# left: share of the decay still to come, 1 to 0; end: --lr_end; count: number of the update, from
# 1; warmup: updates of the warm-up, at least 1. All but end are float32 scalars.
def linear(left: tf.Tensor, end: float, count: tf.Tensor, warmup: float) -> tf.Tensor:
    return end + (1.0 - end) * left


def cosine(left: tf.Tensor, end: float, count: tf.Tensor, warmup: float) -> tf.Tensor:
    return end + (1.0 - end) * 0.5 * (1.0 - tf.cos(math.pi * left))


def rsqrt(left: tf.Tensor, end: float, count: tf.Tensor, warmup: float) -> tf.Tensor:
    return tf.sqrt(warmup / count)


def constant(left: tf.Tensor, end: float, count: tf.Tensor, warmup: float) -> tf.Tensor:
    return tf.ones_like(count)


# The choices of `--lr_schedule`.
SCHEDULES = {
    "linear": linear,
    "wsd": linear,
    "cosine": cosine,
    "rsqrt": rsqrt,
    "constant": constant,
}
