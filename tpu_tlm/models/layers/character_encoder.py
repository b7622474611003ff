"""Token vectors from characters: convolutions, highway layers and a projection (ELMo)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.config.elmo import CHARACTERS, ElmoConfig
from tpu_tlm.models.layers.core import Dense
from tpu_tlm.models.layers.layer import Layer


class Convolution(Layer):
    """A convolution over the characters of a token, then the maximum over its positions:
    `[N, W, E] -> [N, count]`. Kernel `[1, width, E, count]`."""

    def __init__(self, width: int, size: int, count: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kernel = self.add_weight(
            name="kernel", shape=(1, width, size, count), initializer="zeros"
        )
        self.bias = self.add_weight(name="bias", shape=(count,), initializer="zeros")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        found = tf.nn.conv1d(x, tf.convert_to_tensor(self.kernel)[0], stride=1, padding="VALID")
        # The bias is the same everywhere, so that it can follow the maximum.
        return tf.reduce_max(found, axis=1) + self.bias


class Highway(Layer):
    """g relu(x W_t + b_t) + (1 - g) x with g = sigmoid(x W_c + b_c) (Srivastava et al. 2015).

    The gate is named "carry" in the files of ELMo, although it scales the transformed value.
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.carry = Dense(size, size, name="carry", dtype=self.dtype_policy)
        self.transform = Dense(size, size, name="transform", dtype=self.dtype_policy)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        gate = tf.sigmoid(self.carry(x))
        return gate * tf.nn.relu(self.transform(x)) + (1.0 - gate) * x


class CharacterEncoder(Layer):
    """Character ids int `[B, T, W]` -> token vectors `[B, T, projection]`; id 0 has a zero vector.

    Kim et al. 2016 (arXiv 1508.06615), as ELMo computes it.
    """

    def __init__(self, config: ElmoConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.sizes = config
        self.table = self.add_weight(
            name="char_embed", shape=(CHARACTERS, config.character_size), initializer="zeros"
        )
        self.convolutions = [
            Convolution(width, config.character_size, count, name=f"cnn{i}", dtype=policy)
            for i, (width, count) in enumerate(config.filters)
        ]
        self.highways = [
            Highway(config.convolved, name=f"highway{i}", dtype=policy)
            for i in range(config.highway)
        ]
        self.project = (
            Dense(config.convolved, config.projection, name="projection", dtype=policy)
            if config.projected
            else None
        )

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        table = tf.pad(tf.convert_to_tensor(self.table), [[1, 0], [0, 0]])
        length = ids.shape[1]
        x = tf.gather(table, tf.reshape(ids, (-1, self.sizes.characters)))
        activation = tf.nn.relu if self.sizes.activation == "relu" else tf.tanh
        y = activation(tf.concat([layer(x) for layer in self.convolutions], axis=-1))
        for highway in self.highways:
            y = highway(y)
        if self.project is not None:
            y = self.project(y)
        return tf.reshape(y, (-1, length, self.sizes.projection))
