"""Gated MLP blocks, which mix positions by a learned matrix (gMLP, arXiv 2105.08050)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.core import ACTIVATIONS, Dense, make_norm
from tpu_tlm.models.layers.counter_rng import Key, dropout
from tpu_tlm.models.layers.layer import Layer
from tpu_tlm.models.layers.tpu_gradients import add_dropped
from tpu_tlm.models.positions.registry import relative_encoding


class SpatialProjection(Layer):
    """A linear map over positions, the same for every channel: `[B, T, c] -> [B, T, c]`.

    `y[t] = sum_s kernel[t, s] x[s] + bias[t]`; kernel `[T, T]`, bias `[T]`, which starts at one so
    that the gate is open at first. Raises ValueError for inputs of another length.
    """

    def __init__(self, seq_length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kernel = self.add_weight(
            name="kernel", shape=(seq_length, seq_length), initializer="zeros"
        )
        self.bias = self.add_weight(name="bias", shape=(seq_length,), initializer="ones")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        length = self.kernel.shape[0]
        if x.shape[1] != length:
            raise ValueError(
                f"a gated MLP made for {length} tokens cannot take {x.shape[1]}; pad to that length"
            )
        return tf.einsum("ts,bsc->btc", self.kernel, x) + self.bias[None, :, None]


class SpatialGatingUnit(Layer):
    """u * proj(norm(v)), u and v the halves of the channels: `[B, T, f] -> [B, T, f/2]`.

    `position_mask`: bool `[B, T, 1]`; positions where it is False do not affect others.
    """

    def __init__(self, config: ModelConfig, seq_length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = make_norm(config, config.d_ff // 2, name="norm", dtype=self.dtype_policy)
        self.proj = SpatialProjection(seq_length, name="proj", dtype=self.dtype_policy)

    def call(self, x: tf.Tensor, position_mask: tf.Tensor | None = None) -> tf.Tensor:
        u, v = tf.split(x, 2, axis=-1)
        v = self.norm(v)
        if position_mask is not None:
            v = tf.where(position_mask, v, tf.zeros([], v.dtype))
        return u * self.proj(v)


class GatedMLPEncoder(Layer):
    """x + from_sgu(sgu(activation(to_ffn(norm(x))))): `[B, T, d] -> [B, T, d]`.

    For one length T = `seq_length`. `attention_mask`: bool `[B, 1, 1, T]`, False at padding. Raises
    ValueError for an odd d_ff, and for masks that differ between query positions.
    """

    def __init__(self, config: ModelConfig, seq_length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if config.d_ff % 2:
            raise ValueError(f"a gated MLP splits --d_ff in two: {config.d_ff} is odd")
        if relative_encoding(config) is not None:
            raise ValueError(
                f"--position_encoding {config.position_encoding[-1]} acts in attention, which --mlp"
                " does not have"
            )
        policy = self.dtype_policy
        self.pdrop, self.ffn_pdrop = config.dropout, config.ffn_pdrop
        self.activation = ACTIVATIONS[config.activation]
        self.norm = make_norm(config, name="norm", dtype=policy)
        self.to_ffn = Dense(config.d_model, config.d_ff, name="to_ffn", dtype=policy)
        self.sgu = SpatialGatingUnit(config, seq_length, name="sgu", dtype=policy)
        self.from_sgu = Dense(config.d_ff // 2, config.d_model, name="from_sgu", dtype=policy)

    def call(
        self,
        x: tf.Tensor,
        attention_mask: tf.Tensor | None = None,
        key: Key | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        key = self.dropout_key(x, key, training)
        mask = None
        if attention_mask is not None:
            if attention_mask.shape[1:3] != (1, 1):
                raise ValueError(
                    "a gated MLP has one mask for all positions: it does not go with"
                    " --segment_mask or windows"
                )
            mask = attention_mask[:, 0, 0, :, None]
        y = dropout(self.activation(self.to_ffn(self.norm(x))), self.ffn_pdrop, key, "ffn")
        y = self.from_sgu(self.sgu(y, position_mask=mask))
        return add_dropped(x, y, self.pdrop, key, "residual1")
