"""Attention with a bias on the scores that depends on the distance alone: T5, ALiBi, ConveRT."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from tpu_tlm.models.layers.attention import MultiHeadedAttention, Tables
from tpu_tlm.models.layers.masks import offsets
from tpu_tlm.models.layers.relative_attention import relative_to_absolute, skewed

T5_BUCKETS, T5_DISTANCE = 32, 128


def t5_bucket(
    offset: np.ndarray, bidirectional: bool, buckets: int = T5_BUCKETS, distance: int = T5_DISTANCE
) -> np.ndarray:
    """The bucket of each offset (key minus query): one each while near, then growing with the logarithm, the last from `distance` on.

    Bidirectional: half of the buckets for keys behind the query; otherwise keys behind share bucket 0 (T5, arXiv 1910.10683, 2.1).
    """
    bucket = np.zeros_like(offset)
    if bidirectional:
        buckets //= 2
        bucket = np.where(offset > 0, buckets, 0)
        away = np.abs(offset)
    else:
        away = np.maximum(-offset, 0)
    exact = buckets // 2
    far = (
        np.log(np.maximum(away, 1).astype(np.float32) / exact)
        / math.log(distance / exact)
        * (buckets - exact)
    )
    return bucket + np.where(
        away < exact, away, np.minimum(exact + far.astype(np.int64), buckets - 1)
    )


class T5Attention(MultiHeadedAttention):
    """A learned bias per head and bucket of distances, after scaling: rel_embedding `[h, 32]` (T5, arXiv 1910.10683), in every layer."""

    def __init__(
        self, d_model: int, num_heads: int, *, bidirectional: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(d_model, num_heads, **kwargs)
        self.bidirectional = bidirectional
        self.rel_embedding = self.add_weight(
            name="rel_embedding", shape=(num_heads, T5_BUCKETS), initializer="zeros", autocast=False
        )

    def tables(self) -> Tables:
        return (tf.convert_to_tensor(self.rel_embedding),)

    def bias(self, length: int, keys: int, start: tf.Tensor | None, tables: Tables) -> tf.Tensor:
        # One column per offset through a constant one-hot matrix, then skewed: no [T, S] table is gathered, nothing is scattered back.
        reach = (length if start is None else keys) - 1
        buckets = t5_bucket(np.arange(-reach, keys), self.bidirectional)
        by_offset = tf.matmul(
            tables[0], tf.constant(np.eye(T5_BUCKETS, dtype=np.float32)[buckets].T)
        )
        if start is not None:
            return tf.slice(by_offset, (0, keys - 1 - start), (self.num_heads, keys))[:, None]
        wide = tf.broadcast_to(
            by_offset[None, :, None], (1, self.num_heads, length, length + keys - 1)
        )
        return skewed(wide, keys)[0]


def alibi_slopes(num_heads: int) -> list[float]:
    """The paper's slopes: 2^(-8 i / h) for a power of two, else those of the next lower power and every second of the next higher."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8.0 * i / power) for i in range(1, power + 1)]
    return slopes + [2.0 ** (-4.0 * i / power) for i in range(1, 2 * (num_heads - power), 2)]


class AlibiAttention(MultiHeadedAttention):
    """score - slope_h |i - j|, nothing learned (ALiBi, arXiv 2108.12409); symmetric, so it serves encoders too."""

    def bias(self, length: int, keys: int, start: tf.Tensor | None, tables: Tables) -> tf.Tensor:
        distance = tf.cast(tf.abs(offsets(length, keys, 0 if start is None else start)), tf.float32)
        return -tf.constant(alibi_slopes(self.num_heads), tf.float32)[:, None, None] * distance


class ConvertAttention(MultiHeadedAttention):
    """ConveRT's relative attention: a learned bias per head and clipped distance (arXiv 1911.03688, 3.1).

    score_ij = q_i.k_j / sqrt(k) + M[h, clip(j - i, -r, r) + r] with M `[h, 2 r + 1]`, starting at zero. The paper gives each layer its own
    reach r (3, 5, 48, 48, 48, 48: `--rpr_k`) and has one head of width 64 (`--num_heads 1 --single_head --d_k 64`). The paper has no
    formula of it; this one is what its words say, a bias by relative position, and costs h (2 r + 1) numbers a layer.
    """

    def __init__(self, d_model: int, num_heads: int, *, rpr_k: int, **kwargs: Any) -> None:
        super().__init__(d_model, num_heads, **kwargs)
        if rpr_k < 1:
            raise ValueError(f"rpr_k must be 1 or more, not {rpr_k}")
        self.rpr_k = rpr_k
        self.rel_bias = self.add_weight(
            name="rel_bias", shape=(num_heads, 2 * rpr_k + 1), initializer="zeros", autocast=False
        )

    def tables(self) -> Tables:
        return (tf.convert_to_tensor(self.rel_bias),)

    def bias(self, length: int, keys: int, start: tf.Tensor | None, tables: Tables) -> tf.Tensor:
        (table,) = tables
        if start is not None:
            rows = (
                tf.clip_by_value(offsets(1, keys, start)[0], -self.rpr_k, self.rpr_k) + self.rpr_k
            )
            return tf.gather(table, rows, axis=1)[:, None]
        by_offset = tf.broadcast_to(
            table[None, :, None], (1, self.num_heads, length, 2 * self.rpr_k + 1)
        )
        return relative_to_absolute(by_offset, keys)[0]
