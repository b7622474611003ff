"""Gradients in the form that XLA's compiler for CPUs makes fast programs of.

That compiler computes an elementwise result again in every place that uses it, unless one of them
is a sum over a longer axis; and its sums over two axes at once read a tensor column by column. The
functions here change the order of float32 sums and nothing else. Programs for other devices, and
other dtypes, are left as they are.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.models.layers.remat import depend_on
from tpu_tlm.models.layers.shared import constant, shared
from tpu_tlm.models.layers.target import for_processor, for_v6e
from tpu_tlm.models.layers.tpu_gradients import bias_sums

# XLA computes a sum over so few numbers again wherever it is used, and with it what it sums: steps
# with texts of 32 tokens took 1.6 times as long.
_FEW, _ENOUGH = 32, 64


def _applies(x: tf.Tensor) -> bool:
    rank = x.shape.rank
    return x.dtype == tf.float32 and rank is not None and rank >= 3 and for_processor()


def column_sums(x: tf.Tensor) -> tf.Tensor:
    """Sums over all axes but the last: `[..., d] -> [d]`."""
    grouped = _grouped(x) if _applies(x) and len(x.shape) == 3 else None
    if grouped is None:
        return tf.reduce_sum(x, axis=constant(tuple(range(len(x.shape) - 1)), tf.int32))
    sums = tf.reduce_sum(grouped, axis=constant(1, tf.int32))
    if (rows := sums.shape[0]) is None:
        ones = tf.ones((1, tf.shape(sums)[0]))
    else:
        ones = shared(("ones", rows), lambda: tf.ones((1, rows)))
    # A product, because XLA would join a second sum with the first.
    return tf.squeeze(tf.matmul(ones, sums), axis=0)


def _grouped(x: tf.Tensor) -> tf.Tensor | None:
    """`[B, T, d]` with several rows as one where T is small; None where it cannot be."""
    rows, length, width = x.shape
    if length is None or length > _FEW:
        return x
    if rows is None or rows * length <= _FEW:
        return None
    together = next(
        n for n in range(1, rows + 1) if not rows % n and n * length >= _ENOUGH or n == rows
    )
    return tf.reshape(stored(x), (rows // together, together * length, width))


def add_bias(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """`x + bias`, `[..., d]` and `[d]`, with `column_sums` for the gradient of the bias.

    On a v6e with `tpu_gradients.bias_sums`.
    """
    if not _applies(x) and not for_v6e():
        return x + bias

    @tf.custom_gradient
    def run(x: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Any]:
        sums = column_sums if _applies(x) else bias_sums
        return x + bias, lambda gradient: (gradient, sums(gradient))

    return run(x, tf.convert_to_tensor(bias))


def multiply_by_scale(x: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """`x * scale`, `[..., d]` and `[d]`, with `column_sums` for the gradient of the scale."""
    if not _applies(x):
        return x * scale

    @tf.custom_gradient
    def run(x: tf.Tensor, scale: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return x * scale, lambda gradient: (gradient * scale, column_sums(gradient * x))

    return run(x, tf.convert_to_tensor(scale))


def stored(x: tf.Tensor) -> tf.Tensor:
    """`x`, computed once instead of in every place that uses it."""
    return depend_on(x, tf.reduce_sum(x, axis=-1)) if _applies(x) else x
