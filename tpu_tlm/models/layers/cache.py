"""What attention keeps of earlier positions in stepwise generation."""

from __future__ import annotations

import tensorflow as tf


class Cache:
    """Keys and values of one attention layer at earlier positions, for stepwise generation.

    `position`: int32 scalar, the position being computed; `keys`, `values`: `[B, h, S, k]`,
    replaced as positions are added; `source`: in a decoder, the keys and values of the encoder's
    output, which never change.
    """

    def __init__(
        self,
        position: tf.Tensor,
        keys: tf.Tensor,
        values: tf.Tensor,
        source: tuple[tf.Tensor, tf.Tensor] | None = None,
    ) -> None:
        self.position, self.keys, self.values, self.source = position, keys, values, source

    def extend(self, k: tf.Tensor, v: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Write the key and value `[B, h, 1, k]` of `position`; returns all keys and values."""
        here = tf.equal(tf.range(self.keys.shape[2]), self.position)[None, None, :, None]
        self.keys, self.values = tf.where(here, k, self.keys), tf.where(here, v, self.values)
        return self.keys, self.values
