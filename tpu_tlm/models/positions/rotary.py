"""Rotary positions: queries and keys rotated by an angle proportional to their position."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.attention import MultiHeadedAttention
from tpu_tlm.models.positions.base import RelativeEncoding


def rotate(x: tf.Tensor, base: float, start: tf.Tensor | int = 0) -> tf.Tensor:
    """Rotate `[B, h, T, k]` by position, computed in float32, in the dtype of `x`.

    Pairs (x_j, x_{j + k/2}) turn by the angle position * base^(-2j / k). `start`: position of the
    first row.
    """
    length, width = x.shape[2], x.shape[3]
    half = width // 2
    positions = tf.cast(tf.range(length) + start, tf.float32)
    frequencies = tf.constant([base ** (-2.0 * j / width) for j in range(half)], tf.float32)
    angles = positions[:, None] * frequencies[None, :]
    cos, sin = tf.cos(angles), tf.sin(angles)
    y = tf.cast(x, tf.float32)
    first, second = y[..., :half], y[..., half:]
    return tf.cast(
        tf.concat([first * cos - second * sin, second * cos + first * sin], axis=-1), x.dtype
    )


class RotaryAttention(MultiHeadedAttention):
    """Attention whose scores depend on the distance by rotation (RoFormer, arXiv 2104.09864).

    The pairs are (j, j + k/2), as in GPT-NeoX and LLaMA. Raises ValueError for an odd head width.
    """

    def __init__(
        self, d_model: int, num_heads: int, *, base: float = 10000.0, **kwargs: Any
    ) -> None:
        super().__init__(d_model, num_heads, **kwargs)
        if self.d_k % 2:
            raise ValueError(f"rotary positions need an even head width, not {self.d_k}")
        self.base = base

    def apply_positions(
        self, q: tf.Tensor, k: tf.Tensor, start: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        first = 0 if start is None else start
        return rotate(q, self.base, first), rotate(k, self.base, first)


class Rotary(RelativeEncoding):
    """`rotary`: wavelengths from 2 pi to 2 pi times `rotary_base`; nothing is learned."""

    options = ("rotary_base", "rotary_base_local")

    def attention(
        self, config: ModelConfig, layer: int, *, causal: bool, cross: bool, **kwargs: Any
    ) -> MultiHeadedAttention:
        base = config.rotary_base
        if config.rotary_base_local is not None and config.window_of(layer) is not None:
            base = config.rotary_base_local
        return RotaryAttention(config.d_model, config.num_heads, base=base, **kwargs)
