"""The Transformer decoder block and the stack of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
from tpu_tlm.models.layers.layer import Layer, check_static_length
from tpu_tlm.models.layers.masks import causal_mask, combine_masks
from tpu_tlm.models.layers.tpu_gradients import add_dropped


class TransformerDecoder(Layer):
    """One decoder block: `[B, T, d]`, encoder_output `[B, S, d]` -> `[B, T, d]`.

    Self attention, cross attention, feed-forward. The orders are those of `TransformerEncoder`,
    with ln1, ln2, ln3 before the three parts; in post-layer-norm ln2 follows self attention, ln3
    cross attention and ln1 the feed-forward layer (MEAD's names).
    """

    def __init__(self, config: ModelConfig, layer: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.order, self.pdrop = config.transformer_type, config.dropout
        policy = self.dtype_policy
        self.ln1, self.ln2, self.ln3 = (
            make_norm(config, name=f"ln{i}", dtype=policy) for i in (1, 2, 3)
        )
        self.self_attn = make_attention(config, layer, causal=True, name="self_attn", dtype=policy)
        self.src_attn = make_attention(config, layer, cross=True, name="src_attn", dtype=policy)
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
        encoder_output: tf.Tensor,
        attention_mask: tf.Tensor | None = None,
        source_mask: tf.Tensor | None = None,
        key: Key | None = None,
        cache: Cache | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        key = self.dropout_key(x, key, training)
        # Sites of its own: self and cross attention would otherwise draw the same numbers.
        source_key = key.fold("source") if key is not None else None

        def attend(h: tf.Tensor) -> tf.Tensor:
            return self.self_attn(h, attention_mask=attention_mask, key=key, cache=cache)

        def cross_attend(h: tf.Tensor) -> tf.Tensor:
            return self.src_attn(
                h,
                encoder_output=encoder_output,
                attention_mask=source_mask,
                key=source_key,
                cache=cache,
            )

        def add(
            x: tf.Tensor, y: tf.Tensor, site: str = "residual1", key: Key | None = key
        ) -> tf.Tensor:
            return add_dropped(x, y, self.pdrop, key, site)

        if self.order == "post-layer-norm":
            x = self.ln2(add(x, attend(x)))
            x = self.ln3(add(x, cross_attend(x), key=source_key))
            return self.ln1(add(x, self.ffn(x, key=key), "residual2"))
        if self.order == "mead":
            x = self.ln1(x)
            x = add(x, attend(x))
            x = self.ln2(x)
            x = add(x, cross_attend(x), key=source_key)
            x = self.ln3(x)
            return add(x, self.ffn(x, key=key), "residual2")
        x = add(x, attend(self.ln1(x)))
        x = add(x, cross_attend(self.ln2(x)), key=source_key)
        return add(x, self.ffn(self.ln3(x), key=key), "residual2")


class TransformerDecoderStack(Layer):
    """Decoder blocks, then a norm unless norms are last in each: `[B, T, d] -> [B, T, d]`.

    Takes `encoder_output` `[B, S, d]`. Causal by itself: `attention_mask` masks more of the target,
    `source_mask` (bool, broadcast to `[B, h, T, S]`) the source. Raises ValueError for options
    that contradict each other.
    """

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        count = config.num_decoder_layers or config.num_layers
        check_layers(config, count)
        if config.mlp:
            raise ValueError("--mlp mixes all positions: a decoder cannot be made of it")
        self.config = config
        policy = self.dtype_policy
        self.blocks = [
            TransformerDecoder(config, i, name=str(i), dtype=policy) for i in range(count)
        ]
        share_positions(config, [block.self_attn for block in self.blocks])
        self.ln = (
            make_norm(config, name="ln", dtype=policy)
            if config.transformer_type != "post-layer-norm"
            else None
        )

    def caches(self, encoder_output: tf.Tensor, length: int, position: tf.Tensor) -> list[Cache]:
        """Caches of all blocks for targets of `length` positions.

        Their own keys and values are empty, those of the source complete.
        """
        caches = []
        for block in self.blocks:
            cache = block.self_attn.cache(encoder_output.shape[0], length, position)
            cache.source = block.src_attn.qkv.keys_values(encoder_output)
            caches.append(cache)
        return caches

    def call(
        self,
        x: tf.Tensor,
        encoder_output: tf.Tensor,
        attention_mask: tf.Tensor | None = None,
        source_mask: tf.Tensor | None = None,
        key: Key | None = None,
        caches: Sequence[Cache] | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        check_static_length(x)
        key = self.dropout_key(x, key, training)
        if caches is None:
            causal = causal_mask(x.shape[1], x.shape[1])
        else:
            causal = causal_mask(1, caches[0].keys.shape[2], caches[0].position)
        x = run_blocks(
            self.blocks,
            self.config,
            x,
            encoder_output,
            key=key,
            caches=caches,
            attention_mask=combine_masks(attention_mask, causal),
            source_mask=source_mask,
        )
        return x if self.ln is None else self.ln(x)
