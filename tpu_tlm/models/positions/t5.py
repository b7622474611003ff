"""T5's relative positions: a learned bias per head and bucket of distances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.attention import MultiHeadedAttention
from tpu_tlm.models.layers.attention_group import Tables
from tpu_tlm.models.layers.variables import borrowed_variables
from tpu_tlm.models.positions.base import RelativeEncoding, Table
from tpu_tlm.models.positions.skew import skew

T5_BUCKETS, T5_DISTANCE = 32, 128


def t5_bucket(
    offset: np.ndarray, bidirectional: bool, buckets: int = T5_BUCKETS, distance: int = T5_DISTANCE
) -> np.ndarray:
    """The bucket of each offset (key minus query), int `[...]` (T5, arXiv 1910.10683, 2.1).

    Small distances have a bucket each; then buckets grow with the logarithm, and the last begins
    at `distance`. Bidirectional: half of the buckets are for keys after the query; otherwise all
    keys after the query share bucket 0.
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
    """A learned bias per head and bucket, added after scaling (T5, arXiv 1910.10683).

    rel_embedding `[h, 32]`, float32, one in every layer as in MEAD; `shared`: none, `borrow` gives
    it the table of another layer (T5).
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        bidirectional: bool = True,
        shared: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(d_model, num_heads, **kwargs)
        self.bidirectional = bidirectional
        self.rel_embedding = (
            None
            if shared
            else self.add_weight(
                name="rel_embedding",
                shape=(num_heads, T5_BUCKETS),
                initializer="zeros",
                autocast=False,
            )
        )

    def position_tables(self) -> Tables:
        (table,) = borrowed_variables(self) or [self.rel_embedding]
        return (tf.convert_to_tensor(table),)

    def position_bias(
        self, length: int, keys: int, start: tf.Tensor | None, tables: Tables
    ) -> tf.Tensor:
        # One column per offset by a constant one-hot matrix, then skewed: no gather of a [T, S]
        # table, no scatter in the backward pass.
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
        return skew(wide, keys)[0]


class T5(RelativeEncoding):
    """`t5`: a bias per head and bucket; causal layers use all buckets for earlier keys."""

    options = ("share_positions",)
    all_tables = (Table("rel_embedding", "rel_embedding"),)

    def tables(
        self, config: ModelConfig, layer: int = 0, *, cross: bool = False
    ) -> tuple[Table, ...]:
        return () if cross or (config.share_positions and layer > 0) else self.all_tables

    def attention(
        self, config: ModelConfig, layer: int, *, causal: bool, cross: bool, **kwargs: Any
    ) -> MultiHeadedAttention:
        # MEAD has bidirectional buckets in causal models too.
        bidirectional = not causal or config.compat == "mead"
        return T5Attention(
            config.d_model,
            config.num_heads,
            bidirectional=bidirectional,
            shared=config.share_positions and layer > 0,
            **kwargs,
        )
