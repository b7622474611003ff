"""Projections of attention: hidden states to heads and back."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.models.layers.core import Dense
from tpu_tlm.models.layers.cpu_gradients import add_bias
from tpu_tlm.models.layers.layer import Layer
from tpu_tlm.models.layers.score_groups import WHOLE, ScoreGroups, add_head_bias
from tpu_tlm.models.layers.target import for_processor

# Queries, keys and values, each `[B, h, T, k]`.
Heads = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


class QKV(Layer):
    """The fused projection to queries, keys and values: `[B, T, d] -> 3 x [B, h, T, k]`.

    Kernel `[d, 3, h, k]`, bias `[3, h, k]`. Call argument `groups`: those in which attention works,
    for the gradient of the bias.
    """

    def __init__(
        self, d_model: int, num_heads: int, d_k: int, *, use_bias: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.shape = (3, num_heads, d_k)
        self.kernel = self.add_weight(
            name="kernel", shape=(d_model, *self.shape), initializer="zeros"
        )
        self.bias = (
            self.add_weight(name="bias", shape=self.shape, initializer="zeros")
            if use_bias
            else None
        )

    def _project_jointly(self, x: tf.Tensor, first: int, last: int) -> list[tf.Tensor]:
        """`_project` by one matrix product and a transposition, which is faster on a CPU."""
        _, heads, width = self.shape
        kernel = tf.cast(self.kernel, self.compute_dtype)[:, first:last]
        joint = tf.matmul(tf.reshape(x, (-1, x.shape[-1])), tf.reshape(kernel, (x.shape[-1], -1)))
        joint = tf.reshape(joint, (-1, x.shape[1], joint.shape[-1]))
        if self.bias is not None:
            bias = tf.cast(self.bias, self.compute_dtype)[first:last]
            joint = add_bias(joint, tf.reshape(bias, (-1,)))
        parts = tf.split(joint, last - first, axis=-1)
        shape = (-1, x.shape[1], heads, width)
        return [tf.transpose(tf.reshape(part, shape), (0, 2, 1, 3)) for part in parts]

    def _project(self, x: tf.Tensor, first: int, last: int, groups: ScoreGroups) -> list[tf.Tensor]:
        if for_processor():
            return self._project_jointly(x, first, last)
        # Keras casts within `call`; `queries` and `keys_values` may be called from outside it.
        kernels = tf.unstack(tf.cast(self.kernel, self.compute_dtype), axis=1)
        # One product each, and no reshape that joins heads and widths: a TPU then writes each
        # result in the layout of attention. Transposing a joint result cost as much as all
        # products of the layer.
        heads = [tf.einsum("btd,dhk->bhtk", x, kernels[i]) for i in range(first, last)]
        if self.bias is None:
            return heads
        biases = tf.unstack(tf.cast(self.bias, self.compute_dtype))
        return [add_head_bias(head, biases[i], groups) for i, head in enumerate(heads, first)]

    def call(self, x: tf.Tensor, groups: ScoreGroups = WHOLE) -> Heads:
        q, k, v = self._project(x, 0, 3, groups)
        return q, k, v

    def queries(self, x: tf.Tensor, groups: ScoreGroups = WHOLE) -> tf.Tensor:
        """Queries alone, `[B, T, d] -> [B, h, T, k]`, for cross attention."""
        return self._project(x, 0, 1, groups)[0]

    def keys_values(
        self, encoder_output: tf.Tensor, groups: ScoreGroups = WHOLE
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Keys and values alone, `[B, S, d] -> 2 x [B, h, S, k]`."""
        k, v = self._project(encoder_output, 1, 3, groups)
        return k, v


class SingleQKV(Layer):
    """Projections of MEAD's single head: queries and keys `[B, 1, T, k]`, values `[B, 1, T, d]`."""

    def __init__(self, d_model: int, d_k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.q = Dense(d_model, d_k, name="q", dtype=self.dtype_policy)
        self.k = Dense(d_model, d_k, name="k", dtype=self.dtype_policy)
        self.v = Dense(d_model, d_model, name="v", dtype=self.dtype_policy)

    def call(self, x: tf.Tensor, groups: ScoreGroups = WHOLE) -> Heads:
        return (self.queries(x), *self.keys_values(x))

    def queries(self, x: tf.Tensor, groups: ScoreGroups = WHOLE) -> tf.Tensor:
        """Queries alone, `[B, T, d] -> [B, 1, T, k]`."""
        return self.q(x)[:, None]

    def keys_values(
        self, encoder_output: tf.Tensor, groups: ScoreGroups = WHOLE
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Keys `[B, 1, S, k]` and values `[B, 1, S, d]` alone, from `[B, S, d]`."""
        return self.k(encoder_output)[:, None], self.v(encoder_output)[:, None]


class Output(Layer):
    """The output projection of the heads: `[B, h, T, k] -> [B, T, d]`.

    Kernel `[h, k, d]`, bias `[d]`.
    """

    def __init__(
        self, d_model: int, num_heads: int, d_k: int, *, use_bias: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.kernel = self.add_weight(
            name="kernel", shape=(num_heads, d_k, d_model), initializer="zeros"
        )
        self.bias = (
            self.add_weight(name="bias", shape=(d_model,), initializer="zeros")
            if use_bias
            else None
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        if for_processor():
            heads, width, size = self.kernel.shape
            flat = tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (-1, heads * width))
            y = tf.matmul(flat, tf.reshape(self.kernel, (heads * width, size)))
            length = tf.shape(x)[2] if x.shape.rank is None else x.shape[2]
            y = tf.reshape(y, (-1, length, size))
            return y if self.bias is None else add_bias(y, self.bias)
        y = tf.einsum("bhtk,hkd->btd", x, self.kernel)
        return y if self.bias is None else add_bias(y, self.bias)
