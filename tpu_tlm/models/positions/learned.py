"""Learned absolute positions: one vector per position."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.embeddings import LookupTableEmbeddings, Start
from tpu_tlm.models.positions.base import AbsoluteEncoding, Table


class LearnedPositionalLookupTableEmbeddings(LookupTableEmbeddings):
    """table[x] + positions[i], positions `[max_positions, d]` (BERT, arXiv 1810.04805).

    Raises ValueError for inputs longer than `max_positions`.
    """

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
                f"an input of {length} tokens is longer than the {self.max_positions} learned"
                " positions (--max_positions)"
            )
        table = tf.convert_to_tensor(self.positions)
        rows = (
            table[:length]
            if isinstance(start, int) and start == 0
            else tf.slice(table, (start, 0), (length, self.embedding_size))
        )
        return tf.gather(self.table, x) + rows[None]


class LearnedPositionalLookupTableEmbeddingsWithBias(LearnedPositionalLookupTableEmbeddings):
    """table[x] + positions[i] + bias, bias `[d]`: BERT's token types where all are type 0."""

    def __init__(self, rows: int, embedding_size: int, **kwargs: Any) -> None:
        super().__init__(rows, embedding_size, **kwargs)
        self.bias = self.add_weight(
            name="bias", shape=(embedding_size,), initializer="zeros", autocast=False
        )

    def vectors(self, x: tf.Tensor, start: Start) -> tf.Tensor:
        return super().vectors(x, start) + self.bias


class Learned(AbsoluteEncoding):
    """`learned`: a vector per position, up to `max_positions` (None: the training length)."""

    options = ("max_positions",)
    all_tables = (Table("positions", "pos_weights", 0.1),)
    layer = LearnedPositionalLookupTableEmbeddings

    def max_length(self, config: ModelConfig, seq_length: int) -> int | None:
        return config.max_positions or seq_length

    def embeddings(
        self, config: ModelConfig, rows: int, seq_length: int, **kwargs: Any
    ) -> LookupTableEmbeddings:
        width = config.embedding_size or config.d_model
        positions = config.max_positions or seq_length
        return self.layer(rows, width, max_positions=positions, **kwargs)


class LearnedWithBias(Learned):
    """`learned-with-bias`: learned positions and one vector that is added at every position."""

    # MEAD has no key for the bias that its readers accept: formats/mead writes it as token types.
    layer = LearnedPositionalLookupTableEmbeddingsWithBias
