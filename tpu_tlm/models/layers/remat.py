"""Recomputation of a block in the backward pass (gradient checkpointing, arXiv 1604.06174)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.models.layers.shared import constant
from tpu_tlm.models.layers.variables import borrowed_variables, named_variables


def depend_on(x: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Identity on `x` with a data dependency on `other` (an optimization barrier).

    XLA keeps no order between independent operations and would merge the second computation with
    the first one. It cannot remove 0 * value, which is not 0 for an infinite value.
    """
    flat = tf.reshape(other, constant((-1,), tf.int32))
    # `flat[0]`, whose numbers would be constants of its own.
    zero, one = constant((0,), tf.int32), constant((1,), tf.int32)
    value = tf.strided_slice(flat, zero, one, one, shrink_axis_mask=1)
    return x + tf.cast(value * constant(0, value.dtype), x.dtype)


def recompute(layer: keras.layers.Layer, *inputs: tf.Tensor, **others: Any) -> tf.Tensor:
    """`layer(*inputs, **others)`, which keeps only `inputs` for the backward pass.

    Everything else is computed again there. Gradients flow to `inputs`, the layer's variables and
    those that were lent to it, not to `others` (masks, keys). Correct with dropout, whose mask is
    a function of the key. The layer must have one output.
    """
    variables = [*named_variables(layer).values(), *borrowed_variables(layer)]
    count = len(inputs)

    def forward(tensors: tuple[tf.Tensor, ...]) -> tf.Tensor:
        # Values are arguments: `custom_gradient` gives none to what a function only captures.
        with keras.StatelessScope(state_mapping=list(zip(variables, tensors[count:], strict=True))):
            return layer(*tensors[:count], **others)

    @tf.custom_gradient
    def run(*tensors: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def backward(gradient: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                again = (
                    *(depend_on(t, gradient) for t in tensors[:count]),
                    *(tf.identity(t) for t in tensors[count:]),
                )
                tape.watch(again)
                output = forward(again)
            return tape.gradient(
                output,
                list(again),
                output_gradients=gradient,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )

        return forward(tensors), backward

    return run(*inputs, *(tf.convert_to_tensor(v) for v in variables))
