"""The embeddings of a model: features by name, joined, normalised and brought to the width of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.core import Dense, make_norm
from tpu_tlm.models.layers.counter_rng import Key, dropout
from tpu_tlm.models.layers.embeddings import (
    LearnedPositionalLookupTableEmbeddings,
    LearnedPositionalLookupTableEmbeddingsWithBias,
    LookupTableEmbeddings,
    ModularPositionalLookupTableEmbeddings,
    PositionalLookupTableEmbeddings,
    Start,
    TokenTypeEmbeddings,
)

# The matrix units of a TPU work on 128 columns: the vocabulary is filled up to that.
LANES = 128


def padded(size: int) -> int:
    """A vocabulary size rounded up to a multiple of 128."""
    return -(-size // LANES) * LANES


class EmbeddingsStack(keras.layers.Layer):
    """Embeds features by name and joins them: `{feature: int [B, T]} -> [B, T, d]`.

    Joined by sum, concatenation, or sum and layer norm (`embeddings_reduction`; BERT has the last); then dropout; then, where the joined
    width is not d_model (`embedding_size`, concatenation), a projection (ALBERT, arXiv 1909.11942). A feature that is not given counts as zeros
    (token type 0), except `x`. `start`: place of the first token.
    """

    def __init__(
        self, features: Mapping[str, keras.layers.Layer], config: ModelConfig, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.features = dict(features)
        self.pdrop, self.concat = config.embeddings_dropout, config.embeddings_reduction == "concat"
        widths = [f.embedding_size for f in self.features.values()]
        self.width = width = sum(widths) if self.concat else widths[0]
        normed = config.embeddings_reduction == "sum-layer-norm"
        self.reduction = (
            make_norm(config, width, name="reduction", dtype=self.dtype_policy) if normed else None
        )
        self.projection = (
            Dense(width, config.d_model, name="projection", dtype=self.dtype_policy)
            if width != config.d_model
            else None
        )

    @property
    def table(self) -> tf.Tensor:
        """The token table `[rows, dsz]`, which a tied head multiplies with."""
        return self.features["x"].table

    def joined(
        self, inputs: Mapping[str, tf.Tensor], key: Key | None = None, start: Start = 0
    ) -> tf.Tensor:
        """What stands before the projection: `[B, T, width]`, `width` columns (two models of different widths can share it)."""
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
        self, inputs: Mapping[str, tf.Tensor], key: Key | None = None, start: Start = 0
    ) -> tf.Tensor:
        y = self.joined(inputs, key, start)
        return y if self.projection is None else self.projection(y)


def _token_embeddings(
    config: ModelConfig, rows: int, seq_length: int, **kwargs: Any
) -> LookupTableEmbeddings:
    width, kind = config.embedding_size or config.d_model, config.embed_type
    if kind == "learned-positional":
        return LearnedPositionalLookupTableEmbeddings(
            rows, width, max_positions=config.max_positions or seq_length, **kwargs
        )
    if kind == "learned-positional-w-bias":
        return LearnedPositionalLookupTableEmbeddingsWithBias(
            rows, width, max_positions=config.max_positions or seq_length, **kwargs
        )
    if kind in ("positional", "positional-t2t"):
        return PositionalLookupTableEmbeddings(
            rows, width, halves=kind == "positional-t2t", **kwargs
        )
    if kind == "modular":
        return ModularPositionalLookupTableEmbeddings(rows, width, **kwargs)
    return LookupTableEmbeddings(rows, width, **kwargs)


def make_embeddings(
    config: ModelConfig, vocab_size: int, seq_length: int, **kwargs: Any
) -> EmbeddingsStack:
    """The embeddings that the configuration asks for; `seq_length` is the length of the position table where `max_positions` is not given."""
    policy = kwargs["dtype"]
    features: dict[str, keras.layers.Layer] = {
        "x": _token_embeddings(config, padded(vocab_size), seq_length, name="x", dtype=policy)
    }
    if config.type_vocab_size:
        features["tt"] = TokenTypeEmbeddings(
            config.type_vocab_size, config.embedding_size or config.d_model, name="tt", dtype=policy
        )
    return EmbeddingsStack(features, config, **kwargs)
