"""Sinusoidal absolute positions, in both published layouts."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.embeddings import LookupTableEmbeddings, Start, positions_of
from tpu_tlm.models.positions.base import AbsoluteEncoding


def sines(positions: tf.Tensor, width: int, *, halves: bool) -> tf.Tensor:
    """The sine table of positions int `[T]`: float32 `[T, width]`.

    Interleaved (MEAD): columns 2j and 2j + 1 are sin and cos of p * 10000^(-2j / width). Halves
    (Tensor2Tensor): columns j and width/2 + j are sin and cos of p * 10000^(-j / (width/2 - 1)).
    """
    half = width // 2
    scales = [
        10000.0 ** (-(j / max(half - 1, 1)) if halves else -2.0 * j / width) for j in range(half)
    ]
    angles = tf.cast(positions, tf.float32)[:, None] * tf.constant(scales, tf.float32)[None, :]
    if halves:
        return tf.concat([tf.sin(angles), tf.cos(angles)], axis=-1)
    pairs = tf.stack([tf.sin(angles), tf.cos(angles)], axis=-1)
    return tf.reshape(pairs, (positions.shape[0], width))


class PositionalLookupTableEmbeddings(LookupTableEmbeddings):
    """table[x] * sqrt(d) + sines (arXiv 1706.03762, 3.5), in either layout of `sines`.

    Raises ValueError for an odd width.
    """

    def __init__(self, rows: int, embedding_size: int, *, halves: bool, **kwargs: Any) -> None:
        super().__init__(rows, embedding_size, **kwargs)
        if embedding_size % 2:
            raise ValueError(f"sinusoidal positions need an even width, not {embedding_size}")
        self.halves = halves

    def vectors(self, x: tf.Tensor, start: Start) -> tf.Tensor:
        table = sines(positions_of(x, start), self.embedding_size, halves=self.halves)
        return tf.gather(self.table, x) * self.embedding_size**0.5 + table[None]


class Sinusoidal(AbsoluteEncoding):
    """`sinusoidal`: sines and cosines in alternating columns; nothing is learned or stored."""

    halves = False

    def embeddings(
        self, config: ModelConfig, rows: int, seq_length: int, **kwargs: Any
    ) -> LookupTableEmbeddings:
        width = config.embedding_size or config.d_model
        return PositionalLookupTableEmbeddings(rows, width, halves=self.halves, **kwargs)


class SinusoidalHalves(Sinusoidal):
    """`sinusoidal-t2t`: all sines, then all cosines, as in Tensor2Tensor."""

    halves = True
