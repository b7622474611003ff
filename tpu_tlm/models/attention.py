"""Multi-headed attention: projections, the plain form, and the hooks that its relatives fill in."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.models.layers import Dense
from tpu_tlm.models.masks import MASKED, both, window_mask
from tpu_tlm.models.random import Key, dropout

Heads = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


class QKV(keras.layers.Layer):
    """The fused projection to queries, keys and values: `[B, T, d] -> 3 x [B, h, T, k]`; kernel `[d, 3, h, k]`, bias `[3, h, k]`."""

    def __init__(self, d_model: int, num_heads: int, d_k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape = (3, num_heads, d_k)
        self.kernel = self.add_weight(name="kernel", shape=(d_model, *self.shape), initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=self.shape, initializer="zeros")

    def _project(self, x: tf.Tensor, first: int, last: int) -> tf.Tensor:
        shape = (last - first, *self.shape[1:])
        width = shape[0] * shape[1] * shape[2]
        # The cast does nothing within `call`, where Keras has made it; the other methods may be called from without.
        kernel, bias = tf.cast(self.kernel, self.compute_dtype), tf.cast(self.bias, self.compute_dtype)
        if shape != self.shape:
            kernel, bias = kernel[:, first:last], bias[first:last]
        y = tf.matmul(tf.reshape(x, (-1, x.shape[-1])), tf.reshape(kernel, (-1, width))) + tf.reshape(bias, (width,))
        return tf.transpose(tf.reshape(y, (-1, x.shape[1], *shape)), (2, 0, 3, 1, 4))

    def call(self, x: tf.Tensor) -> Heads:
        y = self._project(x, 0, 3)
        return y[0], y[1], y[2]

    def queries(self, x: tf.Tensor) -> tf.Tensor:
        """Queries alone `[B, h, T, k]`, for keys and values of something else."""
        return self._project(x, 0, 1)[0]

    def keys_values(self, memory: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Keys and values alone, `[B, S, d] -> 2 x [B, h, S, k]`."""
        y = self._project(memory, 1, 3)
        return y[0], y[1]


class SingleQKV(keras.layers.Layer):
    """Projections of a single head: queries and keys `[B, 1, T, k]`, values as wide as the model `[B, 1, T, d]`."""

    def __init__(self, d_model: int, d_k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.q = Dense(d_model, d_k, name="q", dtype=self.dtype_policy)
        self.k = Dense(d_model, d_k, name="k", dtype=self.dtype_policy)
        self.v = Dense(d_model, d_model, name="v", dtype=self.dtype_policy)

    def call(self, x: tf.Tensor) -> Heads:
        return (self.queries(x), *self.keys_values(x))

    def queries(self, x: tf.Tensor) -> tf.Tensor:
        """Queries alone `[B, 1, T, k]`."""
        return self.q(x)[:, None]

    def keys_values(self, memory: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Keys `[B, 1, S, k]` and values `[B, 1, S, d]` alone."""
        return self.k(memory)[:, None], self.v(memory)[:, None]


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


class Cache:
    """Keys and values of one attention layer at the places so far, for generation one position at a time.

    `at`: int32 scalar, the place of the position being computed; `keys`, `values`: `[B, h, S, k]`, replaced as positions are added.
    `source`: keys and values of the text that a decoder looks at, which never change.
    """

    def __init__(self, at: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, source: tuple[tf.Tensor, tf.Tensor] | None = None) -> None:
        self.at, self.keys, self.values, self.source = at, keys, values, source

    def extend(self, k: tf.Tensor, v: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Write the key and value `[B, h, 1, k]` of the place `at`; give back all of them."""
        here = tf.equal(tf.range(self.keys.shape[2]), self.at)[None, None, :, None]
        self.keys, self.values = tf.where(here, k, self.keys), tf.where(here, v, self.values)
        return self.keys, self.values


class MultiHeadedAttention(keras.layers.Layer):
    """Scaled dot-product attention with several heads: `[B, T, d] -> [B, T, d]` (arXiv 1706.03762, 3.2).

    out = w_O concat_h softmax(q k^T / sqrt(k) + bias) v. `visible`: bool, broadcast to `[B, h, T, S]`, true where a query may look at
    a key. `memory`: `[B, S, d]`, what keys and values are made of in cross attention. Scores and softmax are float32 in every
    precision. `d_k` need not be `d_model / num_heads`. `window`: keys further away than this are masked (None: none). `single_head`:
    MEAD's form of one head, values `[B, T, d]` and no w_O.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        d_k: int | None = None,
        pdrop: float = 0.0,
        window: int | None = None,
        single_head: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if d_k is None and d_model % num_heads:
            raise ValueError(f"d_model {d_model} cannot be divided among {num_heads} heads; give d_k")
        if single_head and num_heads != 1:
            raise ValueError(f"--single_head is the form of one head, not of --num_heads {num_heads}")
        if window is not None and window < 1:
            raise ValueError(f"a window must reach 1 position or more, not {window}; with --windowed_ra give --rpr_k")
        self.num_heads, self.pdrop, self.window = num_heads, pdrop, window
        self.d_k = d_k or d_model // num_heads
        self.d_v = d_model if single_head else self.d_k
        self.w_O: Output | None = None
        if single_head:
            self.qkv = SingleQKV(d_model, self.d_k, name="qkv", dtype=self.dtype_policy)
        else:
            self.qkv = QKV(d_model, num_heads, self.d_k, name="qkv", dtype=self.dtype_policy)
            self.w_O = Output(d_model, num_heads, self.d_k, name="w_O", dtype=self.dtype_policy)

    def placed(self, q: tf.Tensor, k: tf.Tensor, start: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        """Queries and keys with their place worked into them. `start`: place of the first one (None: 0)."""
        return q, k

    def scores(self, q: tf.Tensor, k: tf.Tensor, start: tf.Tensor | None) -> tf.Tensor:
        """Scores `[B, h, T, S]` of scaled queries `[B, h, T, k]` against keys `[B, h, S, k]`, before masking."""
        return tf.matmul(q, k, transpose_b=True)

    def bias(self, length: int, keys: int, start: tf.Tensor | None) -> tf.Tensor | None:
        """What is added to the scores whatever the text: float32, broadcast to `[h, T, S]`, or None."""
        return None

    def mixed(self, weights: tf.Tensor, v: tf.Tensor, start: tf.Tensor | None) -> tf.Tensor:
        """Values `[B, h, S, k]` averaged by the weights `[B, h, T, S]`: `[B, h, T, k]`."""
        return tf.matmul(weights, v)

    def cache(self, rows: int, length: int, at: tf.Tensor) -> Cache:
        """An empty cache for `rows` texts of `length` positions."""
        shape = (rows, self.num_heads, length)
        return Cache(at, tf.zeros((*shape, self.d_k), self.compute_dtype), tf.zeros((*shape, self.d_v), self.compute_dtype))

    def _heads(self, x: tf.Tensor, memory: tf.Tensor | None, cache: Cache | None) -> Heads:
        if memory is not None:
            source = cache.source if cache is not None and cache.source is not None else self.qkv.keys_values(memory)
            return (self.qkv.queries(x), *source)
        q, k, v = self.qkv(x)
        if cache is None:
            return (*self.placed(q, k, None), v)
        q, k = self.placed(q, k, cache.at)
        return (q, *cache.extend(k, v))

    def attend(
        self, q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, visible: tf.Tensor | None, key: Key | None, start: tf.Tensor | None
    ) -> tf.Tensor:
        """Heads `[B, h, T, k]` of the output before the projection."""
        scores = tf.cast(self.scores(q * tf.cast(self.d_k**-0.5, q.dtype), k, start), tf.float32)
        bias = self.bias(q.shape[2], k.shape[2], start)
        if bias is not None:
            scores += bias
        if visible is not None:
            scores = tf.where(visible, scores, MASKED)
        weights = tf.cast(tf.nn.softmax(scores), self.compute_dtype)
        return self.mixed(dropout(weights, self.pdrop, key, "attn"), v, start)

    def call(
        self,
        x: tf.Tensor,
        visible: tf.Tensor | None = None,
        key: Key | None = None,
        memory: tf.Tensor | None = None,
        cache: Cache | None = None,
    ) -> tf.Tensor:
        start = cache.at if cache is not None else None
        q, k, v = self._heads(x, memory, cache)
        if self.window is not None:
            visible = both(visible, window_mask(q.shape[2], k.shape[2], self.window, 0 if start is None else start))
        out = self.attend(q, k, v, visible, key, start)
        return out[:, 0] if self.w_O is None else self.w_O(out)
