"""What every model with one encoder shares: embeddings, mask, encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.embeddings_stack import make_embeddings
from tpu_tlm.models.layers.encoder import TransformerEncoderStack
from tpu_tlm.models.layers.masks import both, causal_mask, padding_mask, segment_mask, segments_of
from tpu_tlm.models.spec import ModelSpec

# Tokens int [B, T], or features by name.
Inputs = Any


def policy_of(precision: str) -> keras.DTypePolicy:
    """`float32` or `bfloat16` (parameters stay float32) as Keras calls it."""
    return keras.DTypePolicy("mixed_bfloat16" if precision == "bfloat16" else "float32")


def features_of(inputs: Inputs) -> Mapping[str, tf.Tensor]:
    """Features by name; a tensor alone is the tokens `x`."""
    return inputs if isinstance(inputs, Mapping) else {"x": inputs}


class TransformerModel(keras.Model):
    """Embeddings and an encoder: `encode` gives hidden states, int `[B, T] -> [B, T, d]`; what is made of them is the subclass's matter.

    Features: `x` tokens int `[B, T]`; `tt` token types; `segments` int `[B, T]`, numbers of the pieces of text that do not see each
    other (with `segment_mask`; where not given, a piece ends with the end-of-line token).
    """

    causal = False

    def __init__(self, spec: ModelSpec, *, precision: str = "float32", **kwargs: Any) -> None:
        policy = policy_of(precision)
        super().__init__(dtype=policy, **kwargs)
        config = spec.config
        if config.segment_mask and spec.eol_id is None:
            raise ValueError(
                "--segment_mask: these examples have no end-of-line token to tell segments by (preprocess with --eol_token)"
            )
        self.config, self.vocab_size, self.seq_length, self.pad_id, self.eol_id = (
            config,
            spec.vocab_size,
            spec.seq_length,
            spec.pad_id,
            spec.eol_id,
        )
        self.embeddings = make_embeddings(
            config,
            spec.vocab_size,
            max(spec.seq_length, spec.seq_length_y or 0),
            name="embeddings",
            dtype=policy,
        )
        self.encoder = TransformerEncoderStack(
            config, spec.seq_length, causal=self.causal, name="encoder", dtype=policy
        )

    def visible(
        self, features: Mapping[str, tf.Tensor], at: tf.Tensor | None = None
    ) -> tf.Tensor | None:
        """Bool, broadcast to `[B, h, T, S]`: who may look at whom; None for everybody. `at`: the one place that looks (None: all)."""
        x = features["x"]
        mask = padding_mask(x, self.pad_id) if self.config.mask_pad else None
        if self.causal:
            mask = both(
                mask,
                causal_mask(x.shape[1], x.shape[1])
                if at is None
                else causal_mask(1, x.shape[1], at),
            )
        if self.config.segment_mask and self.eol_id is not None:
            segments = (
                features["segments"] if "segments" in features else segments_of(x, self.eol_id)
            )
            looking = segments if at is None else tf.gather(segments, at, axis=1)[:, None]
            mask = both(mask, segment_mask(looking, segments))
        return mask

    def encode(self, inputs: Inputs, key: Key | None = None) -> tf.Tensor:
        """Hidden states `[B, T, d]` in the compute dtype."""
        features = features_of(inputs)
        return self.encoder(
            self.embeddings(features, key=key), visible=self.visible(features), key=key
        )
