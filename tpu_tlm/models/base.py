"""The base of all models with one encoder: embeddings, attention mask, encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.embeddings_stack import EmbeddingsStack
from tpu_tlm.models.layers.encoder import TransformerEncoderStack
from tpu_tlm.models.layers.layer import KerasObject, check_static_length
from tpu_tlm.models.layers.masks import (
    causal_mask,
    combine_masks,
    padding_mask,
    segment_ids,
    segment_mask,
)
from tpu_tlm.models.spec import ModelSpec

# Tokens int [B, T], or features by name.
Inputs = Any


def dtype_policy(precision: str) -> keras.DTypePolicy:
    """Keras' name of a precision: `float32` or `bfloat16`, in which parameters stay float32."""
    return keras.DTypePolicy("mixed_bfloat16" if precision == "bfloat16" else "float32")


def as_features(inputs: Inputs) -> Mapping[str, tf.Tensor]:
    """Features by name; a tensor alone is the tokens `x`."""
    return inputs if isinstance(inputs, Mapping) else {"x": inputs}


class TransformerModel(KerasObject, keras.Model):
    """Embeddings and an encoder: `encode` gives hidden states, int `[B, T] -> [B, T, d]`.

    A subclass adds what is computed from them. Features: `x` tokens int `[B, T]`; `tt` token types;
    `segments` int `[B, T]`, segment numbers for `segment_mask` (not given: a segment ends with the
    end-of-line token).

    `precision`: float32 or bfloat16; None: the policy `dtype`, by default Keras' global one.
    Raises ValueError for options that contradict each other.
    """

    causal = False

    def __init__(self, spec: ModelSpec, *, precision: str | None = None, **kwargs: Any) -> None:
        if precision is not None:
            kwargs["dtype"] = dtype_policy(precision)
        super().__init__(**kwargs)
        config, policy = spec.config, self.dtype_policy
        if config.segment_mask and spec.eol_id is None:
            raise ValueError(
                "--segment_mask: these examples have no end-of-line token that ends a segment"
                " (preprocess with --eol_token)"
            )
        self.config, self.vocab_size, self.seq_length, self.pad_id, self.eol_id = (
            config,
            spec.vocab_size,
            spec.seq_length,
            spec.pad_id,
            spec.eol_id,
        )
        longest = max(spec.seq_length, spec.seq_length_y or 0)
        self.embeddings = EmbeddingsStack(
            config, spec.vocab_size, longest, name="embeddings", dtype=policy
        )
        self.encoder = TransformerEncoderStack(
            config, spec.seq_length, causal=self.causal, name="encoder", dtype=policy
        )

    def get_config(self) -> dict[str, Any]:
        """The spec and the policy `dtype`, which also says what `precision` does."""
        config = super().get_config()
        config.pop("precision", None)
        return config

    def attention_mask(
        self, features: Mapping[str, tf.Tensor], position: tf.Tensor | None = None
    ) -> tf.Tensor | None:
        """Bool (True = attend), broadcast to `[B, h, T, S]`; None: everything is attended to.

        `position`: int32 scalar, the only query position (None: all).
        """
        x = features["x"]
        length = x.shape[1]
        mask = padding_mask(x, self.pad_id) if self.config.mask_pad else None
        if self.causal:
            rows, start = (length, 0) if position is None else (1, position)
            mask = combine_masks(mask, causal_mask(rows, length, start))
        if self.config.segment_mask and self.eol_id is not None:
            segments = (
                features["segments"] if "segments" in features else segment_ids(x, self.eol_id)
            )
            queries = (
                segments if position is None else tf.gather(segments, position, axis=1)[:, None]
            )
            mask = combine_masks(mask, segment_mask(queries, segments))
        return mask

    def encode(self, inputs: Inputs, key: Key | None = None) -> tf.Tensor:
        """Hidden states `[B, T, d]` in the compute dtype; with a key, dropout is applied.

        Raises ValueError for inputs whose length is not fixed.
        """
        features = as_features(inputs)
        check_static_length(features["x"])
        embedded = self.embeddings(features, key=key)
        return self.encoder(embedded, attention_mask=self.attention_mask(features), key=key)
