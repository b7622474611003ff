"""The dual encoder: texts that belong together get similar vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.base import Inputs, TransformerModel, as_features
from tpu_tlm.models.layers.core import ACTIVATIONS, Dense, make_norm
from tpu_tlm.models.layers.counter_rng import Key, dropout
from tpu_tlm.models.layers.layer import Layer
from tpu_tlm.models.layers.pooling import Reduction
from tpu_tlm.models.spec import ModelSpec


class StackedHead(Layer):
    """ConveRT's feed-forward head: `[B, in] -> [B, d_out]` (arXiv 1911.03688, 3.1).

    y = norm(x); for every hidden size (`stacking_layers`) y = dropout(norm(dropout(h))) with
    h = activation(dense(y)), plus y where the sizes match; out = norm(dense(y) + skip(x)), skip a
    dense layer where the sizes differ.
    """

    def __init__(self, config: ModelConfig, input_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.pdrop, self.activation = config.dropout, ACTIVATIONS[config.activation]
        sizes = [input_size, *config.stacking_layers]
        self.ln_in = make_norm(config, input_size, name="ln_in", dtype=policy)
        self.dense = [
            Dense(a, b, name=f"dense{i}", dtype=policy)
            for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False))
        ]
        self.norms = [
            make_norm(config, size, name=f"ln{i}", dtype=policy) for i, size in enumerate(sizes[1:])
        ]
        self.out = Dense(sizes[-1], config.d_out, name="out", dtype=policy)
        self.skip = (
            Dense(input_size, config.d_out, name="skip", dtype=policy)
            if input_size != config.d_out
            else None
        )
        self.ln = make_norm(config, config.d_out, name="ln", dtype=policy)

    def call(self, x: tf.Tensor, key: Key | None = None, training: bool | None = None) -> tf.Tensor:
        key = self.dropout_key(x, key, training)
        y = self.ln_in(x)
        for i, (dense, norm) in enumerate(zip(self.dense, self.norms, strict=True)):
            h = self.activation(dense(y))
            h = dropout(h + y if h.shape == y.shape else h, self.pdrop, key, f"before{i}")
            y = dropout(norm(h), self.pdrop, key, f"after{i}")
        return self.ln(self.out(y) + (x if self.skip is None else self.skip(x)))


class DualEncoder(TransformerModel):
    """One encoder for both texts: `{x: int [B, T], y: int [B, S]} -> (u, v)`.

    u and v are float32 `[B, d_out]`. MEAD's `PairedModel` in the shape of ConveRT: a reduction,
    then a head per side. `ff1` (queries, x) and `ff2` (responses, y) are `stacking_layers` heads,
    or one dense layer, or absent where the reduction is `d_out` wide already. `temperature`
    (float32 scalar, `init_temp` at the start) is the logarithm of the scale of similarities, which
    the objective applies.
    """

    def __init__(self, spec: ModelSpec, *, precision: str | None = None, **kwargs: Any) -> None:
        super().__init__(spec, precision=precision, **kwargs)
        config, policy = spec.config, self.dtype_policy
        self.reduction = Reduction(config, name="reduction", dtype=policy)
        self.ff1 = self._make_head(config, name="ff1", dtype=policy)
        self.ff2 = self._make_head(config, name="ff2", dtype=policy)
        self.temperature = self.add_weight(
            name="temperature", shape=(), initializer="zeros", autocast=False
        )

    def _make_head(self, config: ModelConfig, **kwargs: Any) -> Layer | None:
        width = self.reduction.width
        if config.stacking_layers:
            return StackedHead(config, width, **kwargs)
        return Dense(width, config.d_out, **kwargs) if width != config.d_out else None

    def reduce(self, inputs: Inputs, key: Key | None = None) -> tf.Tensor:
        """The vector of a text before the heads: int `[B, T] -> float32 [B, width]`."""
        features = as_features(inputs)
        hidden = self.encode(features, key)
        return self.reduction(hidden, token_mask=tf.not_equal(features["x"], self.pad_id))

    def _apply_head(self, head: Layer | None, base: tf.Tensor, key: Key | None) -> tf.Tensor:
        if head is None:
            return base
        base = tf.cast(base, self.compute_dtype)
        return tf.cast(
            head(base, key=key) if isinstance(head, StackedHead) else head(base), tf.float32
        )

    def encode_query(self, inputs: Inputs, key: Key | None = None) -> tf.Tensor:
        """Vectors of queries, float32 `[B, d_out]`."""
        return self._apply_head(self.ff1, self.reduce(inputs, key), key)

    def encode_response(self, inputs: Inputs, key: Key | None = None) -> tf.Tensor:
        """Vectors of responses, float32 `[B, d_out]`."""
        return self._apply_head(self.ff2, self.reduce(inputs, key), key)

    def call(
        self,
        inputs: Mapping[str, tf.Tensor],
        key: Key | None = None,
        training: bool | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        key = self.dropout_key(inputs, key, training)
        first, second = (key.fold("x"), key.fold("y")) if key is not None else (None, None)
        return (
            self.encode_query({"x": inputs["x"]}, first),
            self.encode_response({"x": inputs["y"]}, second),
        )
