"""Attention with rotary positions."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.models.layers.attention import MultiHeadedAttention


def rotated(x: tf.Tensor, base: float, start: tf.Tensor | int = 0) -> tf.Tensor:
    """Turn `[B, h, T, k]` by its place: pairs (x_j, x_{j + k/2}) by the angle place * base^(-2j / k), in float32."""
    length, width = x.shape[2], x.shape[3]
    half = width // 2
    place = tf.cast(tf.range(length) + start, tf.float32)
    angles = (
        place[:, None]
        * tf.constant([base ** (-2.0 * j / width) for j in range(half)], tf.float32)[None, :]
    )
    cos, sin = tf.cos(angles), tf.sin(angles)
    y = tf.cast(x, tf.float32)
    first, second = y[..., :half], y[..., half:]
    return tf.cast(
        tf.concat([first * cos - second * sin, second * cos + first * sin], axis=-1), x.dtype
    )


class RotaryAttention(MultiHeadedAttention):
    """Queries and keys are turned by an angle that grows with their place: scores depend on the distance (RoFormer, arXiv 2104.09864).

    The pairs are (j, j + k/2), as in GPT-NeoX and LLaMA. Raises ValueError for an odd head width.
    """

    def __init__(
        self, d_model: int, num_heads: int, *, base: float = 10000.0, **kwargs: Any
    ) -> None:
        super().__init__(d_model, num_heads, **kwargs)
        if self.d_k % 2:
            raise ValueError(f"rotary positions need an even head width, not {self.d_k}")
        self.base = base

    def placed(
        self, q: tf.Tensor, k: tf.Tensor, start: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        begin = 0 if start is None else start
        return rotated(q, self.base, begin), rotated(k, self.base, begin)
