"""From one vector per position to one vector per text."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.core import Dense
from tpu_tlm.models.layers.masks import MASKED

# What follows the heads of sha, 2ha (no ending) and of sha_mean...
_ENDINGS = {"": "sqrt_length", "mean": "mean", "max": "max"}


def pooled(hidden: tf.Tensor, present: tf.Tensor, kind: str) -> tf.Tensor:
    """`[B, T, d] -> float32 [B, d]` over the positions where `present` (bool `[B, T]`) is true.

    `cls`: the first position, whatever it is; `mean`; `max`; `sqrt_length`: the sum divided by the root of the number of positions
    (arXiv 1803.11175). A text with no position gives zeros (max: the floor of scores).
    """
    hidden = tf.cast(hidden, tf.float32)
    if kind == "cls":
        return hidden[:, 0]
    there = present[:, :, None]
    if kind == "max":
        return tf.reduce_max(tf.where(there, hidden, MASKED), axis=1)
    total = tf.reduce_sum(tf.where(there, hidden, 0.0), axis=1)
    count = tf.maximum(tf.reduce_sum(tf.cast(there, tf.float32), axis=1), 1.0)
    return total / (count if kind == "mean" else tf.sqrt(count))


class ReductionHead(keras.layers.Layer):
    """softmax(q k^T / sqrt(k)) with the hidden states themselves as values: `[B, T, d] -> [B, T, d]`. MEAD does not scale."""

    def __init__(self, d_model: int, d_k: int, *, scaled: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = d_k**-0.5 if scaled else 1.0
        self.q = Dense(d_model, d_k, name="q", dtype=self.dtype_policy)
        self.k = Dense(d_model, d_k, name="k", dtype=self.dtype_policy)

    def call(self, hidden: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        scores = tf.cast(
            tf.matmul(
                self.q(hidden) * tf.cast(self.scale, hidden.dtype), self.k(hidden), transpose_b=True
            ),
            tf.float32,
        )
        weights = tf.nn.softmax(tf.where(present[:, None, :], scores, MASKED))
        return tf.matmul(tf.cast(weights, hidden.dtype), hidden)


class Reduction(keras.layers.Layer):
    """Hidden states to one vector per text: `[B, T, d]`, present bool `[B, T]` -> float32 `[B, width]`.

    `reduction_type`: those of `pooled`; `sha`, `2ha`: attention by one or two heads (ConveRT, arXiv 1911.03688, 3.1), joined, then
    sqrt_length, or `_mean`, `_max`. With `compat` mead the heads are not scaled, what they say at padding is counted too, and
    sqrt_length multiplies by the root: what its checkpoints were trained with.
    """

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        kind, _, ending = config.reduction_type.partition("_")
        self.mead = config.compat == "mead"
        count = {"sha": 1, "2ha": 2}.get(kind, 0)
        self.kind = _ENDINGS[ending] if count else config.reduction_type
        self.heads = [
            ReductionHead(
                config.d_model,
                config.reduction_d_k,
                scaled=not self.mead,
                name=f"head{i + 1}",
                dtype=self.dtype_policy,
            )
            for i in range(count)
        ]
        self.width = config.d_model * max(1, count)

    def call(self, hidden: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        if not self.heads:
            return pooled(hidden, present, self.kind)
        joined = tf.concat([head(hidden, present=present) for head in self.heads], axis=-1)
        if not self.mead:
            return pooled(joined, present, self.kind)
        joined = tf.cast(joined, tf.float32)
        count = tf.maximum(tf.reduce_sum(tf.cast(present, tf.float32), axis=1, keepdims=True), 1.0)
        if self.kind == "max":
            return tf.reduce_max(joined, axis=1)
        total = tf.reduce_sum(joined, axis=1)
        return total / count if self.kind == "mean" else total * tf.sqrt(count)
