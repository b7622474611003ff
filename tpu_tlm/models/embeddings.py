"""Embeddings of the input features and their reduction to one vector per position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.models.layers import LayerNorm
from tpu_tlm.models.random import Key, dropout


class LookupTableEmbeddings(keras.layers.Layer):
    """A table looked up by id: int `[B, T] -> [B, T, d]`. `rows` may exceed the vocabulary: padding that no id reaches."""

    def __init__(self, rows: int, dsz: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = self.add_weight(name="table", shape=(rows, dsz), initializer="zeros", autocast=False)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.gather(self.table, x), self.compute_dtype)


class LearnedPositionalLookupTableEmbeddings(LookupTableEmbeddings):
    """A table plus a learned vector per position (BERT, arXiv 1810.04805); raises ValueError for inputs longer than `mxlen`."""

    def __init__(self, rows: int, dsz: int, *, mxlen: int, **kwargs: Any) -> None:
        super().__init__(rows, dsz, **kwargs)
        self.mxlen = mxlen
        self.positions = self.add_weight(name="positions", shape=(mxlen, dsz), initializer="zeros", autocast=False)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        length = x.shape[1]
        if length > self.mxlen:
            raise ValueError(f"an input of {length} tokens is longer than the {self.mxlen} learned positions (--mxlen)")
        # Added in float32: the sum is rounded once.
        return tf.cast(tf.gather(self.table, x) + tf.convert_to_tensor(self.positions)[None, :length], self.compute_dtype)


class TokenTypeEmbeddings(keras.layers.Layer):
    """A tiny table looked up by a one-hot product, which needs no scatter in the backward pass: int `[B, T] -> [B, T, d]`."""

    def __init__(self, types: int, dsz: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.types = types
        self.table = self.add_weight(name="table", shape=(types, dsz), initializer="zeros", autocast=False)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.matmul(tf.one_hot(x, self.types), self.table), self.compute_dtype)


class EmbeddingsStack(keras.layers.Layer):
    """Embeds features by name and joins them: `{feature: int [B, T]} -> [B, T, d]`.

    `reduction`: `sum`, or `sum-layer-norm` (sum, then a layer norm, as BERT). A feature that is not given counts as zeros
    (token type 0), except `x`.
    """

    def __init__(
        self, features: Mapping[str, keras.layers.Layer], d_model: int, *, reduction: str, epsilon: float, pdrop: float, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.features = dict(features)
        self.pdrop = pdrop
        self.reduction = LayerNorm(d_model, epsilon=epsilon, name="reduction", dtype=self.dtype_policy) if reduction == "sum-layer-norm" else None

    def call(self, inputs: Mapping[str, tf.Tensor], key: Key | None = None) -> tf.Tensor:
        x = inputs["x"]
        y = tf.add_n([embed(inputs[name] if name in inputs else tf.zeros_like(x)) for name, embed in self.features.items()])
        if self.reduction is not None:
            y = self.reduction(y)
        return dropout(y, self.pdrop, key, "embeddings")
