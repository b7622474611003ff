"""The dual encoder: two texts that belong together get vectors that are near."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.base import Inputs, TransformerModel, features_of
from tpu_tlm.models.layers.core import ACTIVATIONS, Dense, make_norm
from tpu_tlm.models.layers.counter_rng import Key, dropout
from tpu_tlm.models.layers.pooling import Reduction
from tpu_tlm.models.spec import ModelSpec


class StackedHead(keras.layers.Layer):
    """ConveRT's feed-forward head: `[B, in] -> [B, d_out]` (arXiv 1911.03688, 3.1).

    y = norm(x); for every hidden size y = dropout(norm(dropout(h))), h = activation(dense(y)), plus y where the sizes match;
    out = norm(dense(y) + skip(x)), skip a dense layer where the sizes differ.
    """

    def __init__(self, config: ModelConfig, insz: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.pdrop, self.activation = config.dropout, ACTIVATIONS[config.activation]
        sizes = [insz, *config.stacking_layers]
        self.ln_in = make_norm(config, insz, name="ln_in", dtype=policy)
        self.dense = [
            Dense(a, b, name=f"dense{i}", dtype=policy)
            for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False))
        ]
        self.norms = [
            make_norm(config, size, name=f"ln{i}", dtype=policy) for i, size in enumerate(sizes[1:])
        ]
        self.out = Dense(sizes[-1], config.d_out, name="out", dtype=policy)
        self.skip = (
            Dense(insz, config.d_out, name="skip", dtype=policy) if insz != config.d_out else None
        )
        self.ln = make_norm(config, config.d_out, name="ln", dtype=policy)

    def call(self, x: tf.Tensor, key: Key | None = None) -> tf.Tensor:
        y = self.ln_in(x)
        for i, (dense, norm) in enumerate(zip(self.dense, self.norms, strict=True)):
            h = self.activation(dense(y))
            h = dropout(h + y if h.shape == y.shape else h, self.pdrop, key, f"before{i}")
            y = dropout(norm(h), self.pdrop, key, f"after{i}")
        return self.ln(self.out(y) + (x if self.skip is None else self.skip(x)))


class DualEncoder(TransformerModel):
    """One encoder for both texts, a reduction, and a head for each side: `{x: int [B, T], y: int [B, S]} -> (u, v)` float32 `[B, d_out]`.

    MEAD's `PairedModel`, ConveRT's shape. `ff1` (queries, x) and `ff2` (responses, y) are `stacking_layers` heads, or one dense layer,
    or absent where the reduction is `d_out` wide already. `temperature` (float32 scalar, `init_temp` at the start) is the logarithm of the
    scale of similarities, for the objective to use.
    """

    def __init__(self, spec: ModelSpec, *, precision: str = "float32", **kwargs: Any) -> None:
        super().__init__(spec, precision=precision, **kwargs)
        config, policy = spec.config, self.dtype_policy
        self.reduction = Reduction(config, name="reduction", dtype=policy)
        self.ff1 = self._head(config, name="ff1", dtype=policy)
        self.ff2 = self._head(config, name="ff2", dtype=policy)
        self.temperature = self.add_weight(
            name="temperature", shape=(), initializer="zeros", autocast=False
        )

    def _head(self, config: ModelConfig, **kwargs: Any) -> keras.layers.Layer | None:
        if config.stacking_layers:
            return StackedHead(config, self.reduction.width, **kwargs)
        return (
            Dense(self.reduction.width, config.d_out, **kwargs)
            if self.reduction.width != config.d_out
            else None
        )

    def reduce(self, inputs: Inputs, key: Key | None = None) -> tf.Tensor:
        """The vector of a text before the heads: int `[B, T] -> float32 [B, width]`."""
        features = features_of(inputs)
        return self.reduction(
            self.encode(features, key), present=tf.not_equal(features["x"], self.pad_id)
        )

    def _through(
        self, head: keras.layers.Layer | None, base: tf.Tensor, key: Key | None
    ) -> tf.Tensor:
        if head is None:
            return base
        base = tf.cast(base, self.compute_dtype)
        return tf.cast(
            head(base, key=key) if isinstance(head, StackedHead) else head(base), tf.float32
        )

    def encode_query(self, inputs: Inputs, key: Key | None = None) -> tf.Tensor:
        """Vectors of queries, float32 `[B, d_out]`."""
        return self._through(self.ff1, self.reduce(inputs, key), key)

    def encode_response(self, inputs: Inputs, key: Key | None = None) -> tf.Tensor:
        """Vectors of responses, float32 `[B, d_out]`."""
        return self._through(self.ff2, self.reduce(inputs, key), key)

    def call(
        self, inputs: Mapping[str, tf.Tensor], key: Key | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        first, second = (key.fold("x"), key.fold("y")) if key is not None else (None, None)
        return self.encode_query({"x": inputs["x"]}, first), self.encode_response(
            {"x": inputs["y"]}, second
        )
