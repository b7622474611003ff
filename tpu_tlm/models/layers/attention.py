"""Multi-headed attention: projections, the plain form, and the hooks that its relatives fill in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.models.layers.core import Dense
from tpu_tlm.models.layers.counter_rng import Key, kept
from tpu_tlm.models.layers.masks import MASKED, both, window_mask
from tpu_tlm.models.layers.remat import after

Heads = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
Tables = Sequence[tf.Tensor]


def _gradients(
    function: Callable[..., tf.Tensor], inputs: Sequence[tf.Tensor], gradient: tf.Tensor
) -> list[tf.Tensor]:
    """Gradients of a function's inputs from that of its output; zeros for those it does not use."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        output = function(*inputs)
    found = tape.gradient(
        output,
        list(inputs),
        output_gradients=gradient,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return list(found)


class QKV(keras.layers.Layer):
    """The fused projection to queries, keys and values: `[B, T, d] -> 3 x [B, h, T, k]`; kernel `[d, 3, h, k]`, bias `[3, h, k]`."""

    def __init__(self, d_model: int, num_heads: int, d_k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape = (3, num_heads, d_k)
        self.kernel = self.add_weight(
            name="kernel", shape=(d_model, *self.shape), initializer="zeros"
        )
        self.bias = self.add_weight(name="bias", shape=self.shape, initializer="zeros")

    def _project(self, x: tf.Tensor, first: int, last: int) -> list[tf.Tensor]:
        # The cast does nothing within `call`, where Keras has made it; the other methods may be called from without.
        kernels = tf.unstack(tf.cast(self.kernel, self.compute_dtype), axis=1)
        biases = tf.unstack(tf.cast(self.bias, self.compute_dtype))
        # A product of its own for each, and no reshape that joins heads and widths: a TPU then writes each where attention wants it, while
        # turning the joint result round cost as much as all products of the layer.
        return [
            tf.einsum("btd,dhk->bhtk", x, kernels[i]) + biases[i][:, None]
            for i in range(first, last)
        ]

    def call(self, x: tf.Tensor) -> Heads:
        q, k, v = self._project(x, 0, 3)
        return q, k, v

    def queries(self, x: tf.Tensor) -> tf.Tensor:
        """Queries alone `[B, h, T, k]`, for keys and values of something else."""
        return self._project(x, 0, 1)[0]

    def keys_values(self, memory: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Keys and values alone, `[B, S, d] -> 2 x [B, h, S, k]`."""
        k, v = self._project(memory, 1, 3)
        return k, v


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
        self.kernel = self.add_weight(
            name="kernel", shape=(num_heads, d_k, d_model), initializer="zeros"
        )
        self.bias = self.add_weight(name="bias", shape=(d_model,), initializer="zeros")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.einsum("bhtk,hkd->btd", x, self.kernel) + self.bias


class Cache:
    """Keys and values of one attention layer at the places so far, for generation one position at a time.

    `at`: int32 scalar, the place of the position being computed; `keys`, `values`: `[B, h, S, k]`, replaced as positions are added.
    `source`: keys and values of the text that a decoder looks at, which never change.
    """

    def __init__(
        self,
        at: tf.Tensor,
        keys: tf.Tensor,
        values: tf.Tensor,
        source: tuple[tf.Tensor, tf.Tensor] | None = None,
    ) -> None:
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
            raise ValueError(
                f"d_model {d_model} cannot be divided among {num_heads} heads; give d_k"
            )
        if single_head and num_heads != 1:
            raise ValueError(
                f"--single_head is the form of one head, not of --num_heads {num_heads}"
            )
        if window is not None and window < 1:
            raise ValueError(
                f"a window must reach 1 position or more, not {window}; with --windowed_ra give --rpr_k"
            )
        self.num_heads, self.pdrop, self.window = num_heads, pdrop, window
        self.d_k = d_k or d_model // num_heads
        self.d_v = d_model if single_head else self.d_k
        self.w_O: Output | None = None
        if single_head:
            self.qkv = SingleQKV(d_model, self.d_k, name="qkv", dtype=self.dtype_policy)
        else:
            self.qkv = QKV(d_model, num_heads, self.d_k, name="qkv", dtype=self.dtype_policy)
            self.w_O = Output(d_model, num_heads, self.d_k, name="w_O", dtype=self.dtype_policy)

    def placed(
        self, q: tf.Tensor, k: tf.Tensor, start: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Queries and keys with their place worked into them. `start`: place of the first one (None: 0)."""
        return q, k

    def tables(self) -> Tables:
        """The layer's own tensors that the three methods below get, in the dtype in which they want them."""
        return ()

    def scores(
        self, q: tf.Tensor, k: tf.Tensor, start: tf.Tensor | None, tables: Tables
    ) -> tf.Tensor:
        """Scores `[B, h, T, S]` of scaled queries `[B, h, T, k]` against keys `[B, h, S, k]`, before masking."""
        return tf.matmul(q, k, transpose_b=True)

    def bias(
        self, length: int, keys: int, start: tf.Tensor | None, tables: Tables
    ) -> tf.Tensor | None:
        """What is added to the scores whatever the text: float32, broadcast to `[h, T, S]`, or None."""
        return None

    def mixed(
        self, weights: tf.Tensor, v: tf.Tensor, start: tf.Tensor | None, tables: Tables
    ) -> tf.Tensor:
        """Values `[B, h, S, k]` averaged by the weights `[B, h, T, S]`: `[B, h, T, k]`; linear in the weights."""
        return tf.matmul(weights, v)

    def cache(self, rows: int, length: int, at: tf.Tensor) -> Cache:
        """An empty cache for `rows` texts of `length` positions."""
        shape = (rows, self.num_heads, length)
        return Cache(
            at,
            tf.zeros((*shape, self.d_k), self.compute_dtype),
            tf.zeros((*shape, self.d_v), self.compute_dtype),
        )

    def _heads(self, x: tf.Tensor, memory: tf.Tensor | None, cache: Cache | None) -> Heads:
        if memory is not None:
            source = (
                cache.source
                if cache is not None and cache.source is not None
                else self.qkv.keys_values(memory)
            )
            return (self.qkv.queries(x), *source)
        q, k, v = self.qkv(x)
        if cache is None:
            return (*self.placed(q, k, None), v)
        q, k = self.placed(q, k, cache.at)
        return (q, *cache.extend(k, v))

    def attend(
        self,
        q: tf.Tensor,
        k: tf.Tensor,
        v: tf.Tensor,
        visible: tf.Tensor | None,
        key: Key | None,
        start: tf.Tensor | None,
    ) -> tf.Tensor:
        """Heads `[B, h, T, k]` of the output before the projection.

        The gradient is written out, after FlashAttention (arXiv 2205.14135, B.4): the sum that the softmax's gradient needs,
        sum_s dp_ts p_ts, is do_t . o_t, and in bfloat16 nothing of the scores' size is kept: the backward pass makes scores and weights
        again. So no pass over `[T, S]` is left which is not part of a matrix product. Dropout's factor stands at the output for the same
        reason. In float32, which is for CPUs, where arithmetic is dear and passes are cheap, the weights are kept.
        """
        q = q * tf.cast(self.d_k**-0.5, q.dtype)
        keep = kept(self.pdrop, key, "attn", (q.shape[1], q.shape[2], k.shape[2]))
        factor = 1.0 if keep is None else 1.0 / (1.0 - self.pdrop)

        def masked(q: tf.Tensor, k: tf.Tensor, tables: Tables) -> tf.Tensor:
            scores = tf.cast(self.scores(q, k, start, tables), tf.float32)
            bias = self.bias(q.shape[2], k.shape[2], start, tables)
            if bias is not None:
                scores += bias
            return scores if visible is None else tf.where(visible, scores, MASKED)

        def dropped(x: tf.Tensor) -> tf.Tensor:
            return x if keep is None else tf.where(keep, x, tf.zeros([], x.dtype))

        @tf.custom_gradient
        def run(
            q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, *tables: tf.Tensor
        ) -> tuple[tf.Tensor, Any]:
            weights = tf.cast(tf.nn.softmax(masked(q, k, tables)), v.dtype)
            out = self.mixed(dropped(weights), v, start, tables)
            out = out * tf.cast(factor, out.dtype)

            def backward(d_out: tf.Tensor) -> list[tf.Tensor]:
                wide = tf.cast(d_out, tf.float32)
                mean = tf.reduce_sum(wide * tf.cast(out, tf.float32), axis=-1, keepdims=True)
                first = second = weights
                if v.dtype != tf.float32:
                    # Each product makes the weights for itself from the scores; were they one tensor, making it would be a pass of its own.
                    scores = masked(after(q, d_out), k, tables)
                    below = scores - tf.reduce_max(scores, axis=-1, keepdims=True)
                    total = tf.reduce_sum(tf.exp(below), axis=-1, keepdims=True)
                    first, second = tf.exp(below) / total, tf.exp(after(below, mean)) / total
                # The forward parts below are dead code but for what their gradients need: XLA drops them.
                d_weights, d_v, *d_mixed = _gradients(
                    lambda w, v, *t: self.mixed(w, v, start, t),
                    (dropped(tf.cast(first, v.dtype)), v, *tables),
                    tf.cast(wide * factor, d_out.dtype),
                )
                d_scores = second * (dropped(tf.cast(d_weights, tf.float32)) - mean)
                d_q, d_k, *d_masked = _gradients(
                    lambda q, k, *t: masked(q, k, t), (q, k, *tables), d_scores
                )
                return [d_q, d_k, d_v, *(a + b for a, b in zip(d_mixed, d_masked, strict=True))]

            return out, backward

        return run(q, k, v, *self.tables())

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
            visible = both(
                visible,
                window_mask(q.shape[2], k.shape[2], self.window, 0 if start is None else start),
            )
        out = self.attend(q, k, v, visible, key, start)
        return out[:, 0] if self.w_O is None else self.w_O(out)
