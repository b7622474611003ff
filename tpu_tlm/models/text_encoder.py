"""The encoder alone, as a source of features."""

from __future__ import annotations

import tensorflow as tf

from tpu_tlm.models.base import Inputs, TransformerModel, features_of
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.pooling import pooled


class TransformerEmbeddings(TransformerModel):
    """Hidden states without a head: int `[B, T] -> [B, T, d]`; what MEAD calls `tlm-words-embed`."""

    def call(self, inputs: Inputs, key: Key | None = None) -> tf.Tensor:
        return self.encode(inputs, key)

    def pooled(self, inputs: Inputs, kind: str, key: Key | None = None) -> tf.Tensor:
        """One vector per text, float32 `[B, d]`, over the positions that are not padding; `kind`: cls, mean, max, sqrt_length."""
        features = features_of(inputs)
        return pooled(self.encode(features, key), tf.not_equal(features["x"], self.pad_id), kind)
