"""The head of a task: pooling, and the layers after it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.models.layers.core import ACTIVATIONS, Dense, LayerNorm
from tpu_tlm.models.layers.counter_rng import Key, dropout
from tpu_tlm.models.layers.masks import MASKED
from tpu_tlm.models.layers.pooling import ReductionHead

# Width of queries and keys of learned attention pooling.
_D_K = 64


@dataclass(frozen=True)
class HeadSpec:
    """A head in numbers.

    outputs: numbers per text, or per token with `tokens`. pooling: cls, mean, max, sqrt, last,
    2ha, attention. pooler: a dense layer after pooling (BERT), then `activation`, then a layer norm
    of epsilon `norm` where that is given (ModernBERT; also at every token). hidden: sizes of
    hidden layers. dropout: on the inputs of the layers. shared: two texts encoded each by itself.
    bias, pooler_bias, norm_bias: whether the last layer, the dense layer and the norm have one.
    fresh: the dense layer is trained from random values, so that vectors of a frozen encoder are
    stored before it.
    """

    outputs: int
    tokens: bool = False
    pooling: str = "mean"
    pooler: bool = False
    activation: str = "tanh"
    hidden: tuple[int, ...] = ()
    dropout: float = 0.1
    shared: bool = False
    norm: float | None = None
    bias: bool = True
    pooler_bias: bool = True
    norm_bias: bool = False
    fresh: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON values; `from_dict` reads them back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HeadSpec:
        """The head of `to_dict`."""
        return cls(**{**values, "hidden": tuple(values["hidden"])})


def pool(hidden: tf.Tensor, present: tf.Tensor, kind: str) -> tf.Tensor:
    """`[B, T, d]`, present bool `[B, T]` -> float32 `[B, d]`.

    cls: the first position; last: the last present one; mean, max, sqrt (the sum divided by the
    root of the number of positions, arXiv 1803.11175): over the present positions.
    """
    hidden = tf.cast(hidden, tf.float32)
    if kind == "cls":
        return hidden[:, 0]
    there = tf.cast(present, tf.float32)[:, :, None]
    if kind == "max":
        return tf.reduce_max(tf.where(present[:, :, None], hidden, MASKED), axis=1)
    count = tf.maximum(tf.reduce_sum(there, axis=1), 1.0)
    if kind == "last":
        at = tf.range(hidden.shape[1], dtype=tf.float32)[None, :, None]
        last = tf.reduce_max(tf.where(present[:, :, None], at, 0.0), axis=1, keepdims=True)
        return tf.reduce_sum(hidden * tf.cast(tf.equal(at, last), tf.float32), axis=1)
    total = tf.reduce_sum(hidden * there, axis=1)
    return total / (tf.sqrt(count) if kind == "sqrt" else count)


def _activation(name: str) -> Callable[[tf.Tensor], tf.Tensor]:
    own = {"tanh": tf.tanh, "linear": tf.identity}
    return own[name] if name in own else ACTIVATIONS[name]


class AttentionPooling(keras.layers.Layer):
    """softmax(w . tanh(W h)) weights over the present positions: `[B, T, d]` -> `[B, d]`
    (Yang et al. 2016, hierarchical attention networks)."""

    def __init__(self, d_model: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = Dense(d_model, d_model, name="dense", dtype=self.dtype_policy)
        self.score = Dense(d_model, 1, use_bias=False, name="score", dtype=self.dtype_policy)

    def call(self, hidden: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        scores = tf.cast(self.score(tf.tanh(self.dense(hidden)))[..., 0], tf.float32)
        weights = tf.nn.softmax(tf.where(present, scores, MASKED))
        return tf.reduce_sum(weights[:, :, None] * tf.cast(hidden, tf.float32), axis=1)


class TaskHead(keras.layers.Layer):
    """Token vectors `[B, T, d]` -> float32 logits `[B, outputs]`, or `[B, T, outputs]`."""

    def __init__(self, spec: HeadSpec, d_model: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.head, policy = spec, self.dtype_policy
        self.pooler: Dense | None = None
        self.attention: AttentionPooling | None = None
        self.reductions: list[ReductionHead] = []
        width = d_model
        if spec.pooler:
            self.pooler = Dense(
                d_model, d_model, use_bias=spec.pooler_bias, name="pooler", dtype=policy
            )
        self.norm = (
            LayerNorm(
                d_model, epsilon=spec.norm, use_bias=spec.norm_bias, name="norm", dtype=policy
            )
            if spec.norm is not None
            else None
        )
        if not spec.tokens:
            if spec.pooling == "attention":
                self.attention = AttentionPooling(d_model, name="attention", dtype=policy)
            if spec.pooling == "2ha":
                self.reductions = [
                    ReductionHead(d_model, _D_K, scaled=True, name=f"head{i}", dtype=policy)
                    for i in (1, 2)
                ]
                width = 2 * d_model
        self.pooled_width = width
        sizes = [width * (4 if spec.shared else 1), *spec.hidden]
        self.layers_ = [
            Dense(a, b, name=f"hidden{i}", dtype=policy)
            for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False))
        ]
        self.out = Dense(sizes[-1], spec.outputs, use_bias=spec.bias, name="out", dtype=policy)

    def reduce(self, hidden: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """One vector per text, before the dense layer: float32 `[B, width]`."""
        if self.attention is not None:
            return self.attention(hidden, present=present)
        if self.reductions:
            joined = [reduction(hidden, present) for reduction in self.reductions]
            return pool(tf.concat(joined, axis=-1), present, "sqrt")
        return pool(hidden, present, self.head.pooling)

    def transform(self, vector: tf.Tensor) -> tf.Tensor:
        """`[..., d]` through the pooler and its norm, if there are: float32."""
        if self.pooler is not None:
            pooled = self.pooler(tf.cast(vector, self.compute_dtype))
            vector = _activation(self.head.activation)(pooled)
        if self.norm is not None:
            vector = self.norm(tf.cast(vector, self.compute_dtype))
        return tf.cast(vector, tf.float32)

    def logits(self, vector: tf.Tensor, key: Key | None) -> tf.Tensor:
        """Hidden layers and output of pooled vectors, or of every position."""
        y = tf.cast(vector, self.compute_dtype)
        rate = self.head.dropout
        for i, layer in enumerate(self.layers_):
            y = tf.nn.gelu(layer(dropout(y, rate, key, f"hidden{i}")))
        return tf.cast(self.out(dropout(y, rate, key, "out")), tf.float32)

    def call(self, vectors: Sequence[tf.Tensor], key: Key | None = None) -> tf.Tensor:
        """Logits of one text's vectors, or of the vectors (u, v) of a pair."""
        if len(vectors) == 2:
            u, v = vectors
            return self.logits(tf.concat([u, v, tf.abs(u - v), u * v], axis=-1), key)
        return self.logits(vectors[0], key)
