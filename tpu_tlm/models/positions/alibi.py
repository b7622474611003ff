"""ALiBi's relative positions: a penalty that grows with the distance."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.attention import MultiHeadedAttention
from tpu_tlm.models.layers.attention_group import Tables
from tpu_tlm.models.layers.masks import relative_positions
from tpu_tlm.models.positions.base import RelativeEncoding


def alibi_slopes(num_heads: int) -> list[float]:
    """The paper's slopes, one per head.

    2^(-8 i / h) for a power of two; otherwise those of the next lower power of two, then every
    second one of the next higher.
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8.0 * i / power) for i in range(1, power + 1)]
    return slopes + [2.0 ** (-4.0 * i / power) for i in range(1, 2 * (num_heads - power), 2)]


class AlibiAttention(MultiHeadedAttention):
    """score - slope_h |i - j| (ALiBi, arXiv 2108.12409); symmetric, so that it serves encoders."""

    def position_bias(
        self, length: int, keys: int, start: tf.Tensor | None, tables: Tables
    ) -> tf.Tensor:
        offsets = relative_positions(length, keys, 0 if start is None else start)
        slopes = tf.constant(alibi_slopes(self.num_heads), tf.float32)
        return -slopes[:, None, None] * tf.cast(tf.abs(offsets), tf.float32)


class Alibi(RelativeEncoding):
    """`alibi`: fixed slopes; nothing is learned or stored."""

    def attention(
        self, config: ModelConfig, layer: int, *, causal: bool, cross: bool, **kwargs: Any
    ) -> MultiHeadedAttention:
        return AlibiAttention(config.d_model, config.num_heads, **kwargs)
