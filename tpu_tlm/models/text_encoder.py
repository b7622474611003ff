"""The encoder without a head, as a source of features."""

from __future__ import annotations

import tensorflow as tf

from tpu_tlm.models.base import Inputs, TransformerModel, as_features
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.pooling import pooled


class TransformerEmbeddings(TransformerModel):
    """Hidden states: int `[B, T] -> [B, T, d]`; MEAD's `tlm-words-embed`."""

    def call(
        self, inputs: Inputs, key: Key | None = None, training: bool | None = None
    ) -> tf.Tensor:
        return self.encode(inputs, self.dropout_key(inputs, key, training))

    def pooled(self, inputs: Inputs, kind: str, key: Key | None = None) -> tf.Tensor:
        """One vector per text, float32 `[B, d]`, over the positions that are not padding.

        `kind`: cls, mean, max, sqrt_length.
        """
        features = as_features(inputs)
        return pooled(self.encode(features, key), tf.not_equal(features["x"], self.pad_id), kind)
