"""Multi-headed self attention, plain and with Shaw's relative positions."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.models.random import Key, dropout

# What a score is replaced by where attention is not allowed: large against any score, finite in float32 and bfloat16.
MASKED = -1e9


class QKV(keras.layers.Layer):
    """The fused projection to queries, keys and values: `[B, T, d] -> 3 x [B, h, T, k]`; kernel `[d, 3, h, k]`, bias `[3, h, k]`."""

    def __init__(self, d_model: int, num_heads: int, d_k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape = (3, num_heads, d_k)
        self.kernel = self.add_weight(name="kernel", shape=(d_model, *self.shape), initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=self.shape, initializer="zeros")

    def call(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        width = self.shape[0] * self.shape[1] * self.shape[2]
        y = tf.matmul(tf.reshape(x, (-1, x.shape[-1])), tf.reshape(self.kernel, (-1, width))) + tf.reshape(self.bias, (width,))
        y = tf.transpose(tf.reshape(y, (-1, x.shape[1], *self.shape)), (2, 0, 3, 1, 4))
        return y[0], y[1], y[2]


class Output(keras.layers.Layer):
    """The projection of the joined heads: `[B, h, T, k] -> [B, T, d]`; kernel `[h, k, d]`, bias `[d]`."""

    def __init__(self, d_model: int, num_heads: int, d_k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.d_model, self.width = d_model, num_heads * d_k
        self.kernel = self.add_weight(name="kernel", shape=(num_heads, d_k, d_model), initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=(d_model,), initializer="zeros")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        length = x.shape[2]
        joined = tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (-1, self.width))
        return tf.reshape(tf.matmul(joined, tf.reshape(self.kernel, (self.width, self.d_model))) + self.bias, (-1, length, self.d_model))


class MultiHeadedAttention(keras.layers.Layer):
    """Scaled dot-product attention with several heads: `[B, T, d] -> [B, T, d]` (arXiv 1706.03762, 3.2).

    `visible`: bool, broadcast to `[B, h, T, T]`, true where a query may look at a key. Scores and softmax are float32 in every
    precision. `d_k` need not be `d_model / num_heads`.
    """

    def __init__(self, d_model: int, num_heads: int, *, d_k: int | None = None, pdrop: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if d_k is None and d_model % num_heads:
            raise ValueError(f"d_model {d_model} cannot be divided among {num_heads} heads; give d_k")
        self.d_k = d_k or d_model // num_heads
        self.pdrop = pdrop
        self.qkv = QKV(d_model, num_heads, self.d_k, name="qkv", dtype=self.dtype_policy)
        self.w_O = Output(d_model, num_heads, self.d_k, name="w_O", dtype=self.dtype_policy)

    def scores(self, q: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
        """Scores `[B, h, T, S]` of scaled queries `[B, h, T, k]` against keys `[B, h, S, k]`, before masking."""
        return tf.matmul(q, k, transpose_b=True)

    def mixed(self, weights: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        """Values `[B, h, S, k]` averaged by the weights `[B, h, T, S]`: `[B, h, T, k]`."""
        return tf.matmul(weights, v)

    def call(self, x: tf.Tensor, visible: tf.Tensor | None = None, key: Key | None = None) -> tf.Tensor:
        q, k, v = self.qkv(x)
        scores = tf.cast(self.scores(q * tf.cast(self.d_k**-0.5, q.dtype), k), tf.float32)
        if visible is not None:
            scores = tf.where(visible, scores, MASKED)
        weights = tf.cast(tf.nn.softmax(scores), self.compute_dtype)
        return self.w_O(self.mixed(dropout(weights, self.pdrop, key, "attn"), v))


def _band(offsets: tf.Tensor, length: int) -> tf.Tensor:
    """`[..., T, 2k + 1]` by clipped offset -> `[..., T, 2T - 1]` by offset `-(T - 1) .. T - 1`."""
    reach = (offsets.shape[-1] - 1) // 2
    if reach >= length:
        return offsets[..., reach - length + 1 : reach + length]
    shape = (*([1] * (len(offsets.shape) - 1)), length - 1 - reach)
    return tf.concat([tf.tile(offsets[..., :1], shape), offsets, tf.tile(offsets[..., -1:], shape)], axis=-1)


def relative_to_absolute(offsets: tf.Tensor) -> tf.Tensor:
    """By offset to by key: `[B, h, T, 2k + 1] -> [B, h, T, T]`, `out[i, j] = in[i, clip(j - i, -k, k) + k]`.

    Two reshapes instead of a gather: row i of the offset table starts one place earlier in the flat array than row i - 1.
    """
    batch, heads, length = offsets.shape[0], offsets.shape[1], offsets.shape[2]
    if length == 1:
        return _band(offsets, 1)
    flat = tf.reshape(_band(offsets, length), (-1, heads, length * (2 * length - 1)))
    flat = flat[:, :, length - 1 : length - 1 + length * (2 * length - 2)]
    return tf.reshape(flat, (-1 if batch is None else batch, heads, length, 2 * length - 2))[..., :length]


def absolute_to_relative(weights: tf.Tensor, reach: int) -> tf.Tensor:
    """The transpose of `relative_to_absolute`: `[B, h, T, T] -> [B, h, T, 2 reach + 1]`, sums the keys that share an offset."""
    batch, heads, length = weights.shape[0], weights.shape[1], weights.shape[2]
    if length == 1:
        wide = weights
    else:
        flat = tf.reshape(tf.pad(weights, ((0, 0), (0, 0), (0, 0), (0, length - 2))), (-1, heads, length * (2 * length - 2)))
        flat = tf.pad(flat, ((0, 0), (0, 0), (length - 1, 1)))
        wide = tf.reshape(flat, (-1 if batch is None else batch, heads, length, 2 * length - 1))
    if reach >= length:
        margin = reach - length + 1
        return tf.pad(wide, ((0, 0), (0, 0), (0, 0), (margin, margin)))
    middle = length - 1
    low = tf.reduce_sum(wide[..., : middle - reach + 1], axis=-1, keepdims=True)
    high = tf.reduce_sum(wide[..., middle + reach :], axis=-1, keepdims=True)
    return tf.concat([low, wide[..., middle - reach + 1 : middle + reach], high], axis=-1)


class MultiHeadedRelativeAttention(MultiHeadedAttention):
    """Self attention with learned relative positions, clipped at `rpr_k` (Shaw et al., arXiv 1803.02155).

    score = (q.k + q.rpr_key[clip(j - i) + rpr_k]) / sqrt(k); with `rpr_value_on` the output gains
    sum_j a_ij rpr_value[clip(j - i) + rpr_k]. Tables `[2 rpr_k + 1, k]`, shared by the heads. The `[T, T, k]` tables of the
    formula are never made: queries meet the 2 rpr_k + 1 rows, and the result is skewed into place.
    """

    def __init__(self, d_model: int, num_heads: int, *, rpr_k: int, rpr_value_on: bool = True, **kwargs: Any) -> None:
        super().__init__(d_model, num_heads, **kwargs)
        if rpr_k < 1:
            raise ValueError(f"rpr_k must be 1 or more, not {rpr_k}")
        self.rpr_k = rpr_k
        self.rpr_key = self.add_weight(name="rpr_key", shape=(2 * rpr_k + 1, self.d_k), initializer="zeros")
        self.rpr_value = self.add_weight(name="rpr_value", shape=(2 * rpr_k + 1, self.d_k), initializer="zeros") if rpr_value_on else None

    def scores(self, q: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
        return super().scores(q, k) + relative_to_absolute(tf.einsum("bhtk,rk->bhtr", q, self.rpr_key))

    def mixed(self, weights: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        out = super().mixed(weights, v)
        if self.rpr_value is None:
            return out
        return out + tf.einsum("bhtr,rk->bhtk", absolute_to_relative(weights, self.rpr_k), self.rpr_value)
