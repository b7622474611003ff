"""Embeddings of one feature: token tables with and without positions, token types."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

# Place of the first token: a number, or an int32 scalar while generating.
Start = Any

# Rows of ConveRT's two position tables: two primes, so that pairs repeat after 517 places only.
MODULAR = (47, 11)


class LookupTableEmbeddings(keras.layers.Layer):
    """A table looked up by id: int `[B, T] -> [B, T, d]`. `rows` may exceed the vocabulary: padding that no id reaches.

    `start`: place of the first token, which only embeddings with positions ask for.
    """

    def __init__(self, rows: int, embedding_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.embedding_size = embedding_size
        self.table = self.add_weight(
            name="table", shape=(rows, embedding_size), initializer="zeros", autocast=False
        )

    def vectors(self, x: tf.Tensor, start: Start) -> tf.Tensor:
        """Float32 `[B, T, d]`: whatever is added is added before the one rounding to the compute dtype."""
        return tf.gather(self.table, x)

    def call(self, x: tf.Tensor, start: Start = 0) -> tf.Tensor:
        return tf.cast(self.vectors(x, start), self.compute_dtype)


class LearnedPositionalLookupTableEmbeddings(LookupTableEmbeddings):
    """A table plus a learned vector per position (BERT, arXiv 1810.04805); raises ValueError for inputs longer than `max_positions`."""

    def __init__(
        self, rows: int, embedding_size: int, *, max_positions: int, **kwargs: Any
    ) -> None:
        super().__init__(rows, embedding_size, **kwargs)
        self.max_positions = max_positions
        self.positions = self.add_weight(
            name="positions",
            shape=(max_positions, embedding_size),
            initializer="zeros",
            autocast=False,
        )

    def vectors(self, x: tf.Tensor, start: Start) -> tf.Tensor:
        length = x.shape[1]
        if length > self.max_positions:
            raise ValueError(
                f"an input of {length} tokens is longer than the {self.max_positions} learned positions (--max_positions)"
            )
        table = tf.convert_to_tensor(self.positions)
        rows = (
            table[:length]
            if isinstance(start, int) and start == 0
            else tf.slice(table, (start, 0), (length, self.embedding_size))
        )
        return tf.gather(self.table, x) + rows[None]


class LearnedPositionalLookupTableEmbeddingsWithBias(LearnedPositionalLookupTableEmbeddings):
    """Learned positions and one more vector for every place: what is left of BERT's token types where all are 0."""

    def __init__(self, rows: int, embedding_size: int, **kwargs: Any) -> None:
        super().__init__(rows, embedding_size, **kwargs)
        self.bias = self.add_weight(
            name="bias", shape=(embedding_size,), initializer="zeros", autocast=False
        )

    def vectors(self, x: tf.Tensor, start: Start) -> tf.Tensor:
        return super().vectors(x, start) + self.bias


def _places(x: tf.Tensor, start: Start) -> tf.Tensor:
    return tf.range(x.shape[1], dtype=tf.int32) + start


def sines(places: tf.Tensor, width: int, *, halves: bool) -> tf.Tensor:
    """Sine table of places int `[T]`: float32 `[T, width]`.

    Interleaved (MEAD): columns 2j, 2j + 1 are sin, cos of place * 10000^(-2j / width). Halves (Tensor2Tensor): column j is sin, column
    width/2 + j cos of place * 10000^(-j / (width/2 - 1)).
    """
    half = width // 2
    scales = [
        10000.0 ** (-(j / max(half - 1, 1)) if halves else -2.0 * j / width) for j in range(half)
    ]
    angles = tf.cast(places, tf.float32)[:, None] * tf.constant(scales, tf.float32)[None, :]
    if halves:
        return tf.concat([tf.sin(angles), tf.cos(angles)], axis=-1)
    return tf.reshape(tf.stack([tf.sin(angles), tf.cos(angles)], axis=-1), (places.shape[0], width))


class PositionalLookupTableEmbeddings(LookupTableEmbeddings):
    """table[x] * sqrt(d) + sines (arXiv 1706.03762, 3.5), in either of the two layouts of `sines`; raises ValueError for an odd width."""

    def __init__(self, rows: int, embedding_size: int, *, halves: bool, **kwargs: Any) -> None:
        super().__init__(rows, embedding_size, **kwargs)
        if embedding_size % 2:
            raise ValueError(f"sinusoidal positions need an even width, not {embedding_size}")
        self.halves = halves

    def vectors(self, x: tf.Tensor, start: Start) -> tf.Tensor:
        return (
            tf.gather(self.table, x) * self.embedding_size**0.5
            + sines(_places(x, start), self.embedding_size, halves=self.halves)[None]
        )


class ModularPositionalLookupTableEmbeddings(LookupTableEmbeddings):
    """table[x] + long[i mod 47] + short[i mod 11] (ConveRT, arXiv 1911.03688, 3.1): learned positions for any length."""

    def __init__(self, rows: int, embedding_size: int, **kwargs: Any) -> None:
        super().__init__(rows, embedding_size, **kwargs)
        self.long = self.add_weight(
            name="positions_long",
            shape=(MODULAR[0], embedding_size),
            initializer="zeros",
            autocast=False,
        )
        self.short = self.add_weight(
            name="positions_short",
            shape=(MODULAR[1], embedding_size),
            initializer="zeros",
            autocast=False,
        )

    def vectors(self, x: tf.Tensor, start: Start) -> tf.Tensor:
        places = _places(x, start)
        # Tiny tables: a one-hot product needs no scatter in the backward pass.
        long, short = (
            tf.matmul(tf.one_hot(places % t.shape[0], t.shape[0]), t)
            for t in (self.long, self.short)
        )
        return tf.gather(self.table, x) + (long + short)[None]


class TokenTypeEmbeddings(keras.layers.Layer):
    """A tiny table looked up by a one-hot product, which needs no scatter in the backward pass: int `[B, T] -> [B, T, d]`."""

    def __init__(self, types: int, embedding_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.types, self.embedding_size = types, embedding_size
        self.table = self.add_weight(
            name="table", shape=(types, embedding_size), initializer="zeros", autocast=False
        )

    def call(self, x: tf.Tensor, start: Start = 0) -> tf.Tensor:
        return tf.cast(tf.matmul(tf.one_hot(x, self.types), self.table), self.compute_dtype)
