"""Embeddings of a target that shares the source's token table only (BART)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.core import make_norm
from tpu_tlm.models.layers.counter_rng import Key, dropout
from tpu_tlm.models.layers.embeddings import Start
from tpu_tlm.models.layers.layer import Layer


class TargetEmbeddings(Layer):
    """table[y] + positions[i], norm, dropout: int `[B, T]`, table `[rows, d]` -> `[B, T, d]`.

    `length`: rows of the position table. Raises ValueError for longer targets.
    """

    def __init__(self, config: ModelConfig, length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if config.embedding_size not in (None, config.d_model):
            raise ValueError("--target_embeddings: needs an --embedding_size of d_model")
        if "learned" not in config.position_encoding:
            raise ValueError("--target_embeddings: needs --position_encoding learned")
        self.pdrop = config.embeddings_dropout
        self.length = config.max_positions or length
        self.positions = self.add_weight(
            name="positions",
            shape=(self.length, config.d_model),
            initializer="zeros",
            autocast=False,
        )
        normed = config.embeddings_reduction == "sum-layer-norm"
        self.reduction = (
            make_norm(config, name="reduction", dtype=self.dtype_policy) if normed else None
        )

    def call(
        self, y: tf.Tensor, table: tf.Tensor, key: Key | None = None, start: Start = 0
    ) -> tf.Tensor:
        count = y.shape[1]
        if count > self.length:
            raise ValueError(
                f"a target of {count} tokens is longer than the {self.length} learned positions"
                " (--max_positions)"
            )
        positions = tf.convert_to_tensor(self.positions)
        rows = tf.slice(positions, (start, 0), (count, positions.shape[1]))
        hidden = tf.cast(tf.gather(table, y) + rows[None], self.compute_dtype)
        if self.reduction is not None:
            hidden = self.reduction(hidden)
        return dropout(hidden, self.pdrop, key, "embeddings")
