"""Pooling: from one vector per position to one vector per text."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.core import Dense
from tpu_tlm.models.layers.layer import Layer
from tpu_tlm.models.layers.masks import MASKED

# How the output of attention heads is pooled, by the suffix of `sha` and `2ha`.
_SUFFIXES = {"": "sqrt_length", "mean": "mean", "max": "max"}


def pooled(hidden: tf.Tensor, token_mask: tf.Tensor, kind: str) -> tf.Tensor:
    """`[B, T, d] -> float32 [B, d]` over the positions where `token_mask` (bool `[B, T]`) is True.

    `kind`: `cls`, the first position in any case; `mean`; `max`; `sqrt_length`, the sum divided by
    the square root of the number of positions (arXiv 1803.11175). Without any position the result
    is zero (`max`: -1e9).
    """
    hidden = tf.cast(hidden, tf.float32)
    if kind == "cls":
        return hidden[:, 0]
    mask = token_mask[:, :, None]
    if kind == "max":
        return tf.reduce_max(tf.where(mask, hidden, MASKED), axis=1)
    total = tf.reduce_sum(tf.where(mask, hidden, 0.0), axis=1)
    count = tf.maximum(tf.reduce_sum(tf.cast(mask, tf.float32), axis=1), 1.0)
    return total / (count if kind == "mean" else tf.sqrt(count))


class ReductionHead(Layer):
    """softmax(q k^T / sqrt(k)) with the hidden states as values: `[B, T, d] -> [B, T, d]`.

    `scaled`: whether scores are divided by sqrt(k) (MEAD does not). `token_mask`: bool `[B, T]`,
    True at keys that are attended to.
    """

    def __init__(self, d_model: int, d_k: int, *, scaled: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = d_k**-0.5 if scaled else 1.0
        self.q = Dense(d_model, d_k, name="q", dtype=self.dtype_policy)
        self.k = Dense(d_model, d_k, name="k", dtype=self.dtype_policy)

    def call(self, hidden: tf.Tensor, token_mask: tf.Tensor) -> tf.Tensor:
        queries = self.q(hidden) * tf.cast(self.scale, hidden.dtype)
        scores = tf.cast(tf.matmul(queries, self.k(hidden), transpose_b=True), tf.float32)
        weights = tf.nn.softmax(tf.where(token_mask[:, None, :], scores, MASKED))
        return tf.matmul(tf.cast(weights, hidden.dtype), hidden)


class Reduction(Layer):
    """One vector per text: hidden `[B, T, d]`, token_mask bool `[B, T]` -> float32 `[B, width]`.

    `reduction_type`: a kind of `pooled`, or `sha`, `2ha`: attention by one or two heads (ConveRT,
    arXiv 1911.03688, 3.1), concatenated, then sqrt_length, or `_mean`, `_max`. With `compat: mead`
    the heads are not scaled, their outputs at padding are pooled too, and sqrt_length multiplies
    by the root: what MEAD's checkpoints were trained with.
    """

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        kind, _, suffix = config.reduction_type.partition("_")
        self.mead = config.compat == "mead"
        count = {"sha": 1, "2ha": 2}.get(kind, 0)
        self.kind = _SUFFIXES[suffix] if count else config.reduction_type
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

    def call(self, hidden: tf.Tensor, token_mask: tf.Tensor) -> tf.Tensor:
        if not self.heads:
            return pooled(hidden, token_mask, self.kind)
        outputs = tf.concat([head(hidden, token_mask=token_mask) for head in self.heads], axis=-1)
        if not self.mead:
            return pooled(outputs, token_mask, self.kind)
        outputs = tf.cast(outputs, tf.float32)
        if self.kind == "max":
            return tf.reduce_max(outputs, axis=1)
        present = tf.reduce_sum(tf.cast(token_mask, tf.float32), axis=1, keepdims=True)
        count, total = tf.maximum(present, 1.0), tf.reduce_sum(outputs, axis=1)
        return total / count if self.kind == "mean" else total * tf.sqrt(count)
