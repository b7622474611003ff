"""ELECTRA's two models in one: a generator that fills masks and a discriminator that looks for what it filled wrongly."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.base import Inputs, features_of
from tpu_tlm.models.discriminator import TransformerDiscriminator
from tpu_tlm.models.language_models import gather_positions
from tpu_tlm.models.layers.core import Dense
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.encoder import TransformerEncoderStack
from tpu_tlm.models.layers.heads import Head
from tpu_tlm.models.spec import ModelSpec


class Generator(keras.layers.Layer):
    """A masked language model without embeddings of its own: joined embeddings `[B, T, width]` -> hidden states, -> logits."""

    def __init__(self, config: ModelConfig, spec: ModelSpec, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.projection = (
            Dense(width, config.d_model, name="projection", dtype=policy)
            if width != config.d_model
            else None
        )
        self.encoder = TransformerEncoderStack(
            config, spec.seq_length, name="encoder", dtype=policy
        )
        self.head = Head(config, spec.vocab_size, name="head", dtype=policy)

    def call(
        self, embedded: tf.Tensor, visible: tf.Tensor | None = None, key: Key | None = None
    ) -> tf.Tensor:
        return self.encoder(
            embedded if self.projection is None else self.projection(embedded),
            visible=visible,
            key=key,
        )


class Electra(TransformerDiscriminator):
    """A discriminator, int `[B, T] -> float32 [B, T]`, and the generator that makes its texts (ELECTRA, arXiv 2003.10555).

    Both look up one token table, positions, token types and their norm; each brings them to its own width. Variables of the discriminator
    have the paths that they have in a discriminator alone, the others stand under `generator/`. Raises ValueError without a generator.
    """

    def __init__(self, spec: ModelSpec, *, precision: str = "float32", **kwargs: Any) -> None:
        super().__init__(spec, precision=precision, **kwargs)
        if spec.generator is None:
            raise ValueError("a model of kind 'electra' needs a generator")
        self.generator = Generator(
            spec.generator, spec, self.embeddings.width, name="generator", dtype=self.dtype_policy
        )

    def generate(self, inputs: Inputs, positions: tf.Tensor, key: Key | None = None) -> tf.Tensor:
        """The generator's logits at `positions` int `[B, N]` of masked texts: float32 `[B, N, V padded]`."""
        features = features_of(inputs)
        hidden = self.generator(
            self.embeddings.joined(features, key=key), visible=self.visible(features), key=key
        )
        return self.generator.head(gather_positions(hidden, positions), self.embeddings.table)
