"""The embeddings of a model: features by name, combined, normalized and projected to d_model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.core import Dense, make_norm
from tpu_tlm.models.layers.counter_rng import Key, dropout
from tpu_tlm.models.layers.embeddings import LookupTableEmbeddings, Start, TokenTypeEmbeddings
from tpu_tlm.models.layers.layer import Layer
from tpu_tlm.models.positions.registry import absolute_encoding

# The matrix units of a TPU work on 128 columns.
LANES = 128


def padded_vocab_size(size: int) -> int:
    """A vocabulary size rounded up to a multiple of 128."""
    return -(-size // LANES) * LANES


def _token_embeddings(
    config: ModelConfig, rows: int, seq_length: int, **kwargs: Any
) -> LookupTableEmbeddings:
    encoding = absolute_encoding(config)
    if encoding is None:
        return LookupTableEmbeddings(rows, config.embedding_size or config.d_model, **kwargs)
    return encoding.embeddings(config, rows, seq_length, **kwargs)


class EmbeddingsStack(Layer):
    """Embeds features by name and combines them: `{feature: int [B, T]} -> [B, T, d]`.

    Features: `x` tokens, with absolute positions; `tt` token types (`type_vocab_size`). They are
    combined by sum, concatenation, or sum and layer norm (`embeddings_reduction`; BERT has the
    last); then dropout; then, where their width is not d_model (`embedding_size`, concatenation), a
    projection (ALBERT, arXiv 1909.11942). A feature that is not given counts as zeros (token type
    0), except `x`.

    `seq_length`: rows of a learned position table where `max_positions` is not given. `start`:
    position of the first token.
    """

    def __init__(
        self, config: ModelConfig, vocab_size: int, seq_length: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.features: dict[str, Layer] = {
            "x": _token_embeddings(
                config, padded_vocab_size(vocab_size), seq_length, name="x", dtype=policy
            )
        }
        width = config.embedding_size or config.d_model
        if config.type_vocab_size:
            self.features["tt"] = TokenTypeEmbeddings(
                config.type_vocab_size, width, name="tt", dtype=policy
            )
        self.pdrop, self.concat = config.embeddings_dropout, config.embeddings_reduction == "concat"
        self.width = width = width * len(self.features) if self.concat else width
        normed = config.embeddings_reduction == "sum-layer-norm"
        self.reduction = (
            make_norm(config, width, name="reduction", dtype=policy) if normed else None
        )
        self.projection = (
            Dense(width, config.d_model, name="projection", dtype=policy)
            if width != config.d_model
            else None
        )

    @property
    def table(self) -> tf.Tensor:
        """The token table `[rows, embedding_size]`, which a tied head multiplies with."""
        return self.features["x"].table

    def combine(
        self, inputs: Mapping[str, tf.Tensor], key: Key | None = None, start: Start = 0
    ) -> tf.Tensor:
        """The combined features before the projection: `[B, T, width]`.

        Two models of different widths can share them.
        """
        x = inputs["x"]
        parts = [
            embed(inputs[name] if name in inputs else tf.zeros_like(x), start=start)
            for name, embed in self.features.items()
        ]
        y = tf.concat(parts, axis=-1) if self.concat else tf.add_n(parts)
        if self.reduction is not None:
            y = self.reduction(y)
        return dropout(y, self.pdrop, key, "embeddings")

    def call(
        self,
        inputs: Mapping[str, tf.Tensor],
        key: Key | None = None,
        start: Start = 0,
        training: bool | None = None,
    ) -> tf.Tensor:
        y = self.combine(inputs, self.dropout_key(inputs, key, training), start)
        return y if self.projection is None else self.projection(y)
