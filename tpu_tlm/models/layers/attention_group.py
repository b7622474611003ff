"""Attention of one group of rows and heads, with its gradient written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

from tpu_tlm.models.layers.cpu_gradients import stored
from tpu_tlm.models.layers.masks import MASKED
from tpu_tlm.models.layers.remat import depend_on
from tpu_tlm.models.layers.score_groups import stores_exponentials

if TYPE_CHECKING:
    from tpu_tlm.models.layers.attention import MultiHeadedAttention

Tables = Sequence[tf.Tensor]

# From so many keys on, TPUs compute the largest score apart from what uses it: libtpu 0.0.31 joins
# the two up to there, which takes longer and twice the memory at 4,096 keys, and of which it has no
# estimate at 8,192 (benchmarks/tpu.md).
LONG = 4096


def _gradients(
    function: Callable[..., tf.Tensor], inputs: Sequence[tf.Tensor], gradient: tf.Tensor
) -> list[tf.Tensor]:
    """Gradients of a function's inputs from that of its output; zeros for unused inputs."""
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


def attend_group(
    layer: MultiHeadedAttention,
    mask: tf.Tensor | None,
    keep: tf.Tensor | None,
    start: tf.Tensor | None,
) -> Callable[..., tuple[tf.Tensor, Callable[..., list[tf.Tensor]]]]:
    """Attention of one group: its output, and the function of its gradients.

    `mask`, `keep`: its parts of the attention mask and of dropout's, None to keep all.
    """
    factor = 1.0 if keep is None else 1.0 / (1.0 - layer.pdrop)

    def masked_scores(q: tf.Tensor, k: tf.Tensor, tables: Tables) -> tf.Tensor:
        q = q * tf.cast(layer.scale, q.dtype)
        scores = tf.cast(layer.scores(q, k, start, tables), tf.float32)
        bias = layer.position_bias(q.shape[2], k.shape[2], start, tables)
        if bias is not None:
            scores += bias
        return scores if mask is None else tf.where(mask, scores, MASKED)

    def shifted_scores(q: tf.Tensor, k: tf.Tensor, tables: Tables) -> tf.Tensor:
        scores = masked_scores(q, k, tables)
        largest = tf.reduce_max(scores, axis=-1, keepdims=True)
        return scores - (depend_on(largest, k) if k.shape[2] >= LONG else largest)

    def weights_of(q: tf.Tensor, k: tf.Tensor, tables: Tables) -> tf.Tensor:
        if q.dtype == tf.float32 or k.shape[2] < LONG:
            return tf.nn.softmax(masked_scores(q, k, tables))
        exponentials = tf.exp(shifted_scores(q, k, tables))
        return exponentials / tf.reduce_sum(exponentials, axis=-1, keepdims=True)

    def drop(x: tf.Tensor) -> tf.Tensor:
        return x if keep is None else tf.where(keep, x, tf.zeros([], x.dtype))

    def values_gradients(
        weights: tf.Tensor, v: tf.Tensor, tables: Tables, d_out: tf.Tensor
    ) -> list[tf.Tensor]:
        """Gradients of the weights, in float32 with dropout, of the values and the tables."""
        d_weights, *others = _gradients(
            lambda w, v, *t: layer.weighted_values(w, v, start, t),
            (drop(tf.cast(weights, v.dtype)), v, *tables),
            d_out,
        )
        return [drop(tf.cast(d_weights, tf.float32)), *others]

    def scores_gradients(
        q: tf.Tensor, k: tf.Tensor, tables: Tables, d_scores: tf.Tensor
    ) -> list[tf.Tensor]:
        if not layer.by_content:
            # Positions use it once more, element by element in another order.
            d_scores = stored(d_scores)
        return _gradients(lambda q, k, *t: masked_scores(q, k, t), (q, k, *tables), d_scores)

    def run_stored(
        q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, tables: Tables
    ) -> tuple[tf.Tensor, Callable[..., list[tf.Tensor]]]:
        """With the exponentials stored, rounded: one pass gives them and their sums."""
        exponentials = tf.cast(tf.exp(shifted_scores(q, k, tables)), v.dtype)
        total = tf.reduce_sum(tf.cast(exponentials, tf.float32), axis=-1, keepdims=True)
        out = layer.weighted_values(drop(exponentials), v, start, tables)

        def share(x: tf.Tensor) -> tf.Tensor:
            return tf.cast(tf.cast(x, tf.float32) * (factor / total), x.dtype)

        def backward(d_out: tf.Tensor, mean: tf.Tensor, last: tf.Tensor) -> list[tf.Tensor]:
            d_weights, d_v, *d_values = values_gradients(exponentials, v, tables, share(d_out))
            d_scores = tf.cast(exponentials, tf.float32) * (d_weights - mean / total)
            d_q, d_k, *d_scored = scores_gradients(q, k, tables, d_scores)
            return [d_q, d_k, d_v, *(a + b for a, b in zip(d_values, d_scored, strict=True))]

        return share(out), backward

    def run(
        q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, tables: Tables
    ) -> tuple[tf.Tensor, Callable[..., list[tf.Tensor]]]:
        if stores_exponentials(q, k):
            return run_stored(q, k, v, tables)
        weights = tf.cast(weights_of(q, k, tables), v.dtype)
        out = layer.weighted_values(drop(weights), v, start, tables)

        def backward(d_out: tf.Tensor, mean: tf.Tensor, last: tf.Tensor) -> list[tf.Tensor]:
            """`mean`: d_out . out; `last`: what all of the backward pass comes after."""
            first = second = weights
            if v.dtype != tf.float32:
                # Two tensors, so that each product computes the weights within itself; one
                # shared tensor would cost a pass of its own.
                below = shifted_scores(depend_on(q, last), k, tables)
                total = tf.reduce_sum(tf.exp(below), axis=-1, keepdims=True)
                first, second = tf.exp(below) / total, tf.exp(depend_on(below, mean)) / total
            # XLA drops the forward parts below except for what their gradients need.
            d_weights, d_v, *d_values = values_gradients(
                first, v, tables, tf.cast(tf.cast(d_out, tf.float32) * factor, d_out.dtype)
            )
            d_q, d_k, *d_scored = scores_gradients(q, k, tables, second * (d_weights - mean))
            return [d_q, d_k, d_v, *(a + b for a, b in zip(d_values, d_scored, strict=True))]

        return out * tf.cast(factor, out.dtype), backward

    return run
