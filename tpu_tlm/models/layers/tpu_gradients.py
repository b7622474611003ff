"""Gradients in the form that costs least where a TPU's products wait for what is fused with them.

On a v6e, by the compiler's estimates, a product takes as long as the elementwise operations within
it: each computation again of an activation or of a sum costs its full time (benchmarks/tpu.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tpu_tlm.models.layers.target import for_wide_tpu

# Two tensors of so many numbers in bfloat16 stay in the core's 128 MiB between two products.
LARGEST = 2**24

# Rows of ones in a product that sums: one row would be turned into a sum again.
_ONES = 8


def activated(activation: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """`activation(x)`, elementwise; on a wide TPU with its derivative computed along with it.

    Both are stored, in x's dtype, for the product that follows and for the two of the backward
    pass, each of which would compute them again. Only for bfloat16 of up to `LARGEST` numbers.
    """
    size = x.shape.num_elements()
    if not _applies(x) or size is None or size > LARGEST:
        return activation(x)

    @tf.custom_gradient
    def run(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        from tensorflow.compiler.tf2xla.ops import gen_xla_ops

        wide = tf.cast(x, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(wide)
            y = activation(wide)
        slope = tape.gradient(y, wide)
        y, slope = gen_xla_ops.xla_optimization_barrier([tf.cast(v, x.dtype) for v in (y, slope)])
        return y, lambda gradient: gradient * slope

    return run(x)


def bias_sums(gradient: tf.Tensor) -> tf.Tensor:
    """Sums over all axes but the last, `[..., d] -> [d]`; on a wide TPU by a product.

    The product adds in float32 and rounds once, as a sum does.
    """
    size = gradient.shape[:-1].num_elements()
    if not _applies(gradient) or size is None:
        return tf.reduce_sum(gradient, axis=list(range(len(gradient.shape) - 1)))
    rows = tf.reshape(gradient, (size, gradient.shape[-1]))
    return tf.matmul(tf.ones((_ONES, size), gradient.dtype), rows)[0]


def _applies(x: tf.Tensor) -> bool:
    return x.dtype == tf.bfloat16 and x.shape.rank is not None and for_wide_tpu()
