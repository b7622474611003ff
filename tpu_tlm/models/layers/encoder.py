"""The Transformer encoder block and the stack of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.blocks import (
    check_layers,
    make_attention,
    run_blocks,
    share_positions,
)
from tpu_tlm.models.layers.cache import Cache
from tpu_tlm.models.layers.core import FFN, make_norm
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.gmlp import GatedMLPEncoder
from tpu_tlm.models.layers.layer import Layer, check_static_length
from tpu_tlm.models.layers.tpu_gradients import add_dropped


class TransformerEncoder(Layer):
    """One encoder block, self attention and feed-forward: `[B, T, d] -> [B, T, d]`.

    Orders (`transformer_type`), with MEAD's names for the norms:

        pre-layer-norm   x += attn(ln1(x)); x += ffn(ln2(x))                (arXiv 2002.04745)
        post-layer-norm  x = ln2(x + attn(x)); x = ln1(x + ffn(x))          (BERT)
        mead             x = ln1(x); x += attn(x); x = ln2(x); x += ffn(x)  (MEAD's default)

    `layer`: number of the layer, for options that are given per layer; `causal`: see the stack.
    """

    def __init__(
        self, config: ModelConfig, layer: int, *, causal: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.order, self.pdrop = config.transformer_type, config.dropout
        policy = self.dtype_policy
        if config.skip_first_norm and self.order != "pre-layer-norm":
            raise ValueError("--skip_first_norm: only with --transformer_type pre-layer-norm")
        skips = config.skip_first_norm and layer == 0
        self.ln1: keras.layers.Layer = (
            keras.layers.Identity(name="ln1", dtype=policy)
            if skips
            else make_norm(config, name="ln1", dtype=policy)
        )
        self.ln2 = make_norm(config, name="ln2", dtype=policy)
        self.attn = make_attention(config, layer, causal=causal, name="attn", dtype=policy)
        self.ffn = FFN(
            config.d_model,
            config.d_ff,
            activation=config.activation,
            pdrop=config.ffn_pdrop,
            use_bias=config.use_bias,
            name="ffn",
            dtype=policy,
        )

    def call(
        self,
        x: tf.Tensor,
        attention_mask: tf.Tensor | None = None,
        key: Key | None = None,
        cache: Cache | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        key = self.dropout_key(x, key, training)

        def attend(h: tf.Tensor) -> tf.Tensor:
            return self.attn(h, attention_mask=attention_mask, key=key, cache=cache)

        def add(x: tf.Tensor, y: tf.Tensor, site: str) -> tf.Tensor:
            return add_dropped(x, y, self.pdrop, key, site)

        if self.order == "post-layer-norm":
            x = self.ln2(add(x, attend(x), "residual1"))
            return self.ln1(add(x, self.ffn(x, key=key), "residual2"))
        if self.order == "mead":
            x = self.ln1(x)
            x = add(x, attend(x), "residual1")
            x = self.ln2(x)
            return add(x, self.ffn(x, key=key), "residual2")
        x = add(x, attend(self.ln1(x)), "residual1")
        return add(x, self.ffn(self.ln2(x), key=key), "residual2")


class TransformerEncoderStack(Layer):
    """`num_layers` blocks, then a norm unless norms are last in each: `[B, T, d] -> [B, T, d]`.

    `causal` selects variants of layers for causal models (buckets of T5's positions); it does not
    mask: the causal mask is part of `attention_mask`. `seq_length`: the one length that gated MLP
    blocks (`mlp`) accept. Call argument `attention_mask`: bool, broadcast to `[B, h, T, T]`.
    Raises ValueError for options that contradict each other.
    """

    def __init__(
        self, config: ModelConfig, seq_length: int, *, causal: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_layers(config, config.num_layers)
        if config.mlp and causal:
            raise ValueError("--mlp mixes all positions: it cannot be causal")
        self.config = config
        policy = self.dtype_policy
        self.blocks: list[Layer] = []
        # With shared layers one block runs `num_layers` times.
        for i in range(1 if config.shared_layers else config.num_layers):
            if config.mlp:
                self.blocks.append(GatedMLPEncoder(config, seq_length, name=str(i), dtype=policy))
            else:
                self.blocks.append(
                    TransformerEncoder(config, i, causal=causal, name=str(i), dtype=policy)
                )
        if not config.mlp:
            share_positions(config, [block.attn for block in self.blocks])
        last = config.transformer_type != "post-layer-norm" or config.mlp
        self.ln = make_norm(config, name="ln", dtype=policy) if last else None

    def caches(self, rows: int, length: int, position: tf.Tensor) -> list[Cache]:
        """Empty caches of all blocks, for stepwise generation at `position`."""
        return [block.attn.cache(rows, length, position) for block in self._all_blocks()]

    def _all_blocks(self) -> list[Layer]:
        return list(self.blocks) * (self.config.num_layers if self.config.shared_layers else 1)

    def call(
        self,
        x: tf.Tensor,
        attention_mask: tf.Tensor | None = None,
        key: Key | None = None,
        caches: Sequence[Cache] | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        check_static_length(x)
        key = self.dropout_key(x, key, training)
        x = run_blocks(
            self._all_blocks(),
            self.config,
            x,
            key=key,
            caches=caches,
            attention_mask=attention_mask,
        )
        return x if self.ln is None else self.ln(x)
