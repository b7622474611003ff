"""A learned weighted sum of layers (ELMo)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.models.layers.layer import Layer

# Added to the variance: as the two programs have it.
_EPS = {"allennlp": 1e-13, "bilm": 1e-12}


def normalized(layer: tf.Tensor, mask: tf.Tensor, kind: str) -> tf.Tensor:
    """`[B, T, d]` minus one mean, divided by one deviation, over all positions of `mask` `[B, T]`.

    kind: allennlp or bilm, of which only the constant differs.
    """
    there = tf.cast(mask, tf.float32)[:, :, None]
    count = tf.reduce_sum(there) * float(layer.shape[-1])
    mean = tf.reduce_sum(layer * there) / count
    variance = tf.reduce_sum(tf.square((layer - mean) * there)) / count
    return (layer - mean) / tf.sqrt(variance + _EPS[kind])


class ScalarMix(Layer):
    """gamma times the sum of softmax(weights)_k layer_k: float32 `[L, B, T, d]` -> `[B, T, d]`."""

    def __init__(self, layers: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weights_ = self.add_weight(name="weights", shape=(layers,), initializer="zeros")
        self.gamma = self.add_weight(name="gamma", shape=(1,), initializer="ones")

    def call(self, layers: tf.Tensor) -> tf.Tensor:
        shares = tf.nn.softmax(tf.cast(tf.convert_to_tensor(self.weights_), tf.float32))
        gamma = tf.cast(tf.convert_to_tensor(self.gamma), tf.float32)
        return gamma * tf.tensordot(shares, tf.cast(layers, tf.float32), 1)
