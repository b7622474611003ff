"""The Transformer decoder block and the stack of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.attention import Cache
from tpu_tlm.models.layers.blocks import check_layers, make_attention, run_blocks
from tpu_tlm.models.layers.core import FFN, make_norm
from tpu_tlm.models.layers.counter_rng import Key, dropout
from tpu_tlm.models.layers.masks import causal_mask


class TransformerDecoder(keras.layers.Layer):
    """One block, self attention, attention to the source, feed-forward: `[B, T, d], memory [B, S, d] -> [B, T, d]`.

    The orders are those of `TransformerEncoder` with ln1, ln2, ln3 before the three parts; in post-layer-norm ln2 stands after self
    attention, ln3 after cross attention, ln1 after the feed-forward (MEAD's names).
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
            name="ffn",
            dtype=policy,
        )

    def call(
        self,
        x: tf.Tensor,
        memory: tf.Tensor,
        visible: tf.Tensor | None = None,
        source_visible: tf.Tensor | None = None,
        key: Key | None = None,
        cache: Cache | None = None,
    ) -> tf.Tensor:
        # Sites of their own: self and cross attention would else draw the same numbers.
        source_key = key.fold("source") if key is not None else None

        def attend(h: tf.Tensor) -> tf.Tensor:
            return dropout(
                self.self_attn(h, visible=visible, key=key, cache=cache),
                self.pdrop,
                key,
                "residual1",
            )

        def look(h: tf.Tensor) -> tf.Tensor:
            y = self.src_attn(h, memory=memory, visible=source_visible, key=source_key, cache=cache)
            return dropout(y, self.pdrop, source_key, "residual1")

        def feed(h: tf.Tensor) -> tf.Tensor:
            return dropout(self.ffn(h, key=key), self.pdrop, key, "residual2")

        if self.order == "post-layer-norm":
            x = self.ln2(x + attend(x))
            x = self.ln3(x + look(x))
            return self.ln1(x + feed(x))
        if self.order == "mead":
            x = self.ln1(x)
            x = x + attend(x)
            x = self.ln2(x)
            x = x + look(x)
            x = self.ln3(x)
            return x + feed(x)
        x = x + attend(self.ln1(x))
        x = x + look(self.ln2(x))
        return x + feed(self.ln3(x))


class TransformerDecoderStack(keras.layers.Layer):
    """Decoder blocks and, unless the norms stand after, a last norm: `[B, T, d], memory [B, S, d] -> [B, T, d]`.

    Causal by itself; `visible` masks more of the target, `source_visible` (broadcast to `[B, h, T, S]`) the source.
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
        self.ln = (
            make_norm(config, name="ln", dtype=policy)
            if config.transformer_type != "post-layer-norm"
            else None
        )

    def caches(self, memory: tf.Tensor, length: int, at: tf.Tensor) -> list[Cache]:
        """Caches of all blocks for targets of `length` positions: empty ones of their own, and the keys and values of the source."""
        caches = []
        for block in self.blocks:
            cache = block.self_attn.cache(memory.shape[0], length, at)
            cache.source = block.src_attn.qkv.keys_values(memory)
            caches.append(cache)
        return caches

    def call(
        self,
        x: tf.Tensor,
        memory: tf.Tensor,
        visible: tf.Tensor | None = None,
        source_visible: tf.Tensor | None = None,
        key: Key | None = None,
        caches: Sequence[Cache] | None = None,
    ) -> tf.Tensor:
        if caches is None:
            causal = causal_mask(x.shape[1], x.shape[1])
        else:
            causal = causal_mask(1, caches[0].keys.shape[2], caches[0].at)
        visible = causal if visible is None else tf.logical_and(visible, causal)
        x = run_blocks(
            self.blocks,
            self.config,
            x,
            memory,
            key=key,
            caches=caches,
            visible=visible,
            source_visible=source_visible,
        )
        return x if self.ln is None else self.ln(x)
