"""Embeddings of one feature: the token table and token types."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.models.layers.layer import Layer

# Position of the first token: an int, or an int32 scalar during generation.
Start = Any


def positions_of(x: tf.Tensor, start: Start) -> tf.Tensor:
    """Positions of the tokens of x `[B, T]`: int32 `[T]`, from `start` on."""
    return tf.range(x.shape[1], dtype=tf.int32) + start


class LookupTableEmbeddings(Layer):
    """A table looked up by id: int `[B, T] -> [B, T, d]`.

    `rows` may exceed the vocabulary: padding rows that no id selects. `start`: position of the
    first token, which subclasses with positions use; these override `vectors`.
    """

    def __init__(self, rows: int, embedding_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.embedding_size = embedding_size
        self.table = self.add_weight(
            name="table", shape=(rows, embedding_size), initializer="zeros", autocast=False
        )

    def vectors(self, x: tf.Tensor, start: Start) -> tf.Tensor:
        """Float32 `[B, T, d]`, summed before the one rounding to the compute dtype."""
        return tf.gather(self.table, x)

    def call(self, x: tf.Tensor, start: Start = 0) -> tf.Tensor:
        return tf.cast(self.vectors(x, start), self.compute_dtype)


class TokenTypeEmbeddings(Layer):
    """A small table looked up by a one-hot product: int `[B, T] -> [B, T, d]`.

    The gradient of the product is a product; that of a gather would be a scatter.
    """

    def __init__(self, types: int, embedding_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.types, self.embedding_size = types, embedding_size
        self.table = self.add_weight(
            name="table", shape=(types, embedding_size), initializer="zeros", autocast=False
        )

    def call(self, x: tf.Tensor, start: Start = 0) -> tf.Tensor:
        return tf.cast(tf.matmul(tf.one_hot(x, self.types), self.table), self.compute_dtype)
