"""ELECTRA's generator and discriminator in one model."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.base import Inputs, as_features
from tpu_tlm.models.discriminator import TransformerDiscriminator
from tpu_tlm.models.language_models import gather_positions
from tpu_tlm.models.layers.core import Dense
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.encoder import TransformerEncoderStack
from tpu_tlm.models.layers.heads import Head
from tpu_tlm.models.layers.layer import Layer
from tpu_tlm.models.spec import ModelSpec


class Generator(Layer):
    """A masked language model without embeddings: `[B, T, width] -> hidden states [B, T, d]`.

    Its input are the combined embeddings of the discriminator, `width` wide; `head` turns hidden
    states into logits.
    """

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
        self,
        embedded: tf.Tensor,
        attention_mask: tf.Tensor | None = None,
        key: Key | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        key = self.dropout_key(embedded, key, training)
        if self.projection is not None:
            embedded = self.projection(embedded)
        return self.encoder(embedded, attention_mask=attention_mask, key=key)


class Electra(TransformerDiscriminator):
    """A discriminator, int `[B, T] -> float32 [B, T]`, with the generator of its inputs.

    ELECTRA, arXiv 2003.10555. Both share token table, positions, token types and their norm; each
    projects them to its own width. The discriminator's variables have the same paths as in a
    discriminator alone, the others are under `generator/`. Raises ValueError for a spec without a
    generator.
    """

    def __init__(self, spec: ModelSpec, *, precision: str | None = None, **kwargs: Any) -> None:
        super().__init__(spec, precision=precision, **kwargs)
        if spec.generator is None:
            raise ValueError("a model of kind 'electra' needs a generator")
        self.generator = Generator(
            spec.generator, spec, self.embeddings.width, name="generator", dtype=self.dtype_policy
        )

    def generate(self, inputs: Inputs, positions: tf.Tensor, key: Key | None = None) -> tf.Tensor:
        """The generator's logits at `positions` int `[B, N]`: float32 `[B, N, V padded]`."""
        features = as_features(inputs)
        embedded = self.embeddings.combine(features, key=key)
        mask = self.attention_mask(features)
        hidden = self.generator(embedded, attention_mask=mask, key=key)
        return self.generator.head(gather_positions(hidden, positions), self.embeddings.table)
