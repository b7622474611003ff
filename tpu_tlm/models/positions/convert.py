"""ConveRT's relative positions: a learned bias per head and clipped distance."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.attention import MultiHeadedAttention
from tpu_tlm.models.layers.attention_group import Tables
from tpu_tlm.models.layers.masks import relative_positions
from tpu_tlm.models.positions.base import RelativeEncoding, Table
from tpu_tlm.models.positions.skew import relative_to_absolute


class ConvertAttention(MultiHeadedAttention):
    """ConveRT's attention: a learned bias per head and clipped distance (arXiv 1911.03688, 3.1).

    score_ij = q_i.k_j / sqrt(k) + M[h, clip(j - i, -r, r) + r], M `[h, 2 r + 1]`, zero at the
    start. The paper gives each layer its own reach r (3, 5, 48, 48, 48, 48: `--rpr_k`) and has one
    head of width 64 (`--num_heads 1 --single_head --d_k 64`). It has no formula; this is what its
    words say, a bias by relative position. Raises ValueError for `rpr_k` below 1.
    """

    def __init__(self, d_model: int, num_heads: int, *, rpr_k: int, **kwargs: Any) -> None:
        super().__init__(d_model, num_heads, **kwargs)
        if rpr_k < 1:
            raise ValueError(f"rpr_k must be 1 or more, not {rpr_k}")
        self.rpr_k = rpr_k
        self.rel_bias = self.add_weight(
            name="rel_bias", shape=(num_heads, 2 * rpr_k + 1), initializer="zeros", autocast=False
        )

    def position_tables(self) -> Tables:
        return (tf.convert_to_tensor(self.rel_bias),)

    def position_bias(
        self, length: int, keys: int, start: tf.Tensor | None, tables: Tables
    ) -> tf.Tensor:
        (table,) = tables
        if start is not None:
            offsets = relative_positions(1, keys, start)[0]
            rows = tf.clip_by_value(offsets, -self.rpr_k, self.rpr_k) + self.rpr_k
            return tf.gather(table, rows, axis=1)[:, None]
        by_offset = tf.broadcast_to(
            table[None, :, None], (1, self.num_heads, length, 2 * self.rpr_k + 1)
        )
        return relative_to_absolute(by_offset, keys)[0]


class Convert(RelativeEncoding):
    """`convert`: ConveRT's bias, up to `rpr_k` per layer; MEAD has no key for it."""

    options = ("rpr_k",)
    all_tables = (Table("rel_bias"),)

    def tables(
        self, config: ModelConfig, layer: int = 0, *, cross: bool = False
    ) -> tuple[Table, ...]:
        return () if cross else self.all_tables

    def attention(
        self, config: ModelConfig, layer: int, *, causal: bool, cross: bool, **kwargs: Any
    ) -> MultiHeadedAttention:
        rpr_k = config.rpr_k_of(layer)
        return ConvertAttention(config.d_model, config.num_heads, rpr_k=rpr_k, **kwargs)
