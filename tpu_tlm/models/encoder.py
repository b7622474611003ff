"""The Transformer encoder block and the stack of them."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.attention import MultiHeadedAttention, MultiHeadedRelativeAttention
from tpu_tlm.models.layers import FFN, LayerNorm
from tpu_tlm.models.random import Key, dropout


def make_attention(config: ModelConfig, layer: int, **kwargs: Any) -> MultiHeadedAttention:
    """The self attention that the configuration asks for in one layer."""
    rpr_k = config.rpr_k_of(layer)
    kwargs.update(d_k=config.d_k, pdrop=config.dropout)
    if rpr_k:
        return MultiHeadedRelativeAttention(config.d_model, config.num_heads, rpr_k=rpr_k, rpr_value_on=config.rpr_value_on, **kwargs)
    return MultiHeadedAttention(config.d_model, config.num_heads, **kwargs)


class TransformerEncoder(keras.layers.Layer):
    """One block, self attention and feed-forward: `[B, T, d] -> [B, T, d]`.

    Orders (`transformer_type`), with MEAD's names for the norms:
    pre-layer-norm   x += attn(ln1(x)); x += ffn(ln2(x))                 (arXiv 2002.04745)
    post-layer-norm  x = ln2(x + attn(x)); x = ln1(x + ffn(x))           (BERT)
    mead             x = ln1(x); x += attn(x); x = ln2(x); x += ffn(x)   (MEAD's default: the normalised value is the residual)
    """

    def __init__(self, config: ModelConfig, layer: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.order, self.pdrop = config.transformer_type, config.dropout
        policy = self.dtype_policy
        self.ln1 = LayerNorm(config.d_model, epsilon=config.layer_norm_eps, name="ln1", dtype=policy)
        self.ln2 = LayerNorm(config.d_model, epsilon=config.layer_norm_eps, name="ln2", dtype=policy)
        self.attn = make_attention(config, layer, name="attn", dtype=policy)
        self.ffn = FFN(config.d_model, config.d_ff, activation=config.activation, pdrop=config.ffn_pdrop, name="ffn", dtype=policy)

    def call(self, x: tf.Tensor, visible: tf.Tensor | None = None, key: Key | None = None) -> tf.Tensor:
        def attend(h: tf.Tensor) -> tf.Tensor:
            return dropout(self.attn(h, visible=visible, key=key), self.pdrop, key, "residual1")

        def feed(h: tf.Tensor) -> tf.Tensor:
            return dropout(self.ffn(h, key=key), self.pdrop, key, "residual2")

        if self.order == "post-layer-norm":
            x = self.ln2(x + attend(x))
            return self.ln1(x + feed(x))
        if self.order == "mead":
            x = self.ln1(x)
            x = x + attend(x)
            x = self.ln2(x)
            return x + feed(x)
        x = x + attend(self.ln1(x))
        return x + feed(self.ln2(x))


class TransformerEncoderStack(keras.layers.Layer):
    """`num_layers` blocks and, unless the norms stand after, a last layer norm: `[B, T, d] -> [B, T, d]`."""

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if len(config.rpr_k) > 1 and len(config.rpr_k) != config.num_layers:
            raise ValueError(f"--rpr_k has {len(config.rpr_k)} numbers for {config.num_layers} layers; give one, or one per layer")
        policy = self.dtype_policy
        self.blocks = [TransformerEncoder(config, i, name=str(i), dtype=policy) for i in range(config.num_layers)]
        last = config.transformer_type != "post-layer-norm"
        self.ln = LayerNorm(config.d_model, epsilon=config.layer_norm_eps, name="ln", dtype=policy) if last else None

    def call(self, x: tf.Tensor, visible: tf.Tensor | None = None, key: Key | None = None) -> tf.Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x, visible=visible, key=key.fold(i) if key is not None else None)
        return x if self.ln is None else self.ln(x)
