"""Gradients in the form that costs least where a TPU's products wait for what is fused with them.

On a v6e, by the compiler's estimates, a product takes as long as the elementwise operations within
it: each computation again of an activation or of a sum costs its full time (benchmarks/tpu.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tpu_tlm.models.layers.counter_rng import Key, dropout, dropout_mask
from tpu_tlm.models.layers.target import for_v6e

# More numbers are not stored twice: the memory would not pay. BERT-base's 64 x 128 x 3,072 are, by
# which its step gets from 27.8 to 28.8 % of the peak (benchmarks/tpu.md).
LARGEST = 2**25

# Rows of ones in a product that sums: one row would be turned into a sum again.
_ONES = 8


def gelu_tanh_with_derivative(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """GELU by its tanh approximation (arXiv 1606.08415) and its derivative, with few operations."""
    square, scale = x * x, math.sqrt(2.0 / math.pi)
    half = 0.5 + 0.5 * tf.tanh(x * (scale + (0.044715 * scale) * square))
    y = x * half
    return y, half + (y - y * half) * (2.0 * scale + (6.0 * 0.044715 * scale) * square)


def _with_derivative(
    activation: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = activation(x)
    return y, tape.gradient(y, x)


def activated(
    activation: Callable[[tf.Tensor], tf.Tensor],
    x: tf.Tensor,
    with_derivative: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]] | None = None,
) -> tf.Tensor:
    """`activation(x)`, elementwise; on a v6e with its derivative computed along with it.

    Both are stored, in x's dtype, for the product that follows and for the two of the backward
    pass, each of which would compute them again. Only for bfloat16 of up to `LARGEST` numbers.
    `with_derivative`: gives both, in fewer operations than TensorFlow's gradient of the activation.
    """
    size = x.shape.num_elements()
    if not _applies(x) or size is None or size > LARGEST:
        return activation(x)

    @tf.custom_gradient
    def run(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        wide = tf.cast(x, tf.float32)
        y, derivative = (
            with_derivative(wide) if with_derivative else _with_derivative(activation, wide)
        )
        y, derivative = _stored(tf.cast(y, x.dtype), tf.cast(derivative, x.dtype))
        return y, lambda gradient: gradient * derivative

    return run(x)


def add_dropped(x: tf.Tensor, y: tf.Tensor, rate: float, key: Key | None, site: str) -> tf.Tensor:
    """`x + dropout(y)` of a residual connection, `[rows, ...]`.

    On a v6e both gradients are stored by one pass; the products that use them would compute
    them again.
    """
    keep = dropout_mask(rate, key, site, y.shape[1:]) if _applies(y) else None
    if keep is None:
        return x + dropout(y, rate, key, site)
    mask = keep

    def dropped(z: tf.Tensor) -> tf.Tensor:
        return tf.where(mask, z * tf.cast(1.0 / (1.0 - rate), z.dtype), tf.zeros([], z.dtype))

    @tf.custom_gradient
    def run(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return x + dropped(y), lambda gradient: _stored(gradient, dropped(gradient))

    return run(x, y)


def bias_sums(gradient: tf.Tensor) -> tf.Tensor:
    """Sums over all axes but the last, `[..., d] -> [d]`; on a v6e by a product.

    The product adds in float32 and rounds once, as a sum does.
    """
    size = gradient.shape[:-1].num_elements()
    if not _applies(gradient) or size is None:
        return tf.reduce_sum(gradient, axis=list(range(len(gradient.shape) - 1)))
    rows = tf.reshape(gradient, (size, gradient.shape[-1]))
    return tf.matmul(tf.ones((_ONES, size), gradient.dtype), rows)[0]


def _stored(*tensors: tf.Tensor) -> list[tf.Tensor]:
    """The tensors behind an optimization barrier: computed once, before what uses them."""
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    return list(gen_xla_ops.xla_optimization_barrier(list(tensors)))


def _applies(x: tf.Tensor) -> bool:
    return x.dtype == tf.bfloat16 and x.shape.rank is not None and for_v6e()
