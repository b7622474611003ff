"""What encoder and decoder blocks share: the choice of attention, and running a stack of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.attention import Cache, MultiHeadedAttention
from tpu_tlm.models.layers.bias_attention import AlibiAttention, ConvertAttention, T5Attention
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.relative_attention import (
    MultiHeadedRelativeAttention,
    OverhangingRelativeAttention,
)
from tpu_tlm.models.layers.remat import recomputed
from tpu_tlm.models.layers.rotary_attention import RotaryAttention


def make_attention(
    config: ModelConfig, layer: int, *, causal: bool = False, cross: bool = False, **kwargs: Any
) -> MultiHeadedAttention:
    """The attention that the configuration asks for in one layer.

    Cross attention knows relative positions only with Shaw's (as MEAD), and no window. Raises ValueError for options that contradict.
    """
    d_model, heads, rpr_k = config.d_model, config.num_heads, config.rpr_k_of(layer)
    if config.windowed_ra and config.local_window:
        raise ValueError("--windowed_ra and --local_window are two ways to say the same; give one")
    kwargs.update(
        d_k=config.d_k,
        pdrop=config.dropout,
        single_head=config.single_head,
        window=None if cross else config.window_of(layer),
    )
    if config.ra_type == "shaw" and rpr_k:
        overhanging = (
            config.windowed_ra
            and config.compat == "mead"
            and not config.mask_pad
            and not causal
            and not cross
        )
        kind = OverhangingRelativeAttention if overhanging else MultiHeadedRelativeAttention
        return kind(d_model, heads, rpr_k=rpr_k, rpr_value_on=config.rpr_value_on, **kwargs)
    if cross:
        return MultiHeadedAttention(d_model, heads, **kwargs)
    if config.ra_type == "convert":
        return ConvertAttention(d_model, heads, rpr_k=rpr_k, **kwargs)
    if config.ra_type == "t5":
        return T5Attention(
            d_model, heads, bidirectional=not causal or config.compat == "mead", **kwargs
        )
    if config.ra_type == "alibi":
        return AlibiAttention(d_model, heads, **kwargs)
    if config.ra_type == "rotary":
        return RotaryAttention(d_model, heads, base=config.rotary_base, **kwargs)
    return MultiHeadedAttention(d_model, heads, **kwargs)


def check_layers(config: ModelConfig, count: int) -> None:
    """Raise ValueError when the numbers of `--rpr_k` do not fit the number of layers."""
    if len(config.rpr_k) > 1 and len(config.rpr_k) != count:
        raise ValueError(
            f"--rpr_k has {len(config.rpr_k)} numbers for {count} layers; give one, or one per layer"
        )
    if config.local_window and config.global_every < 1:
        raise ValueError(f"--global_every must be 1 or more, not {config.global_every}")


def run_blocks(
    blocks: Sequence[keras.layers.Layer],
    config: ModelConfig,
    x: tf.Tensor,
    *memory: tf.Tensor,
    key: Key | None,
    caches: Sequence[Cache] | None = None,
    **others: Any,
) -> tf.Tensor:
    """`x` through the blocks one after another, with LayerDrop and recomputation where the configuration asks for them.

    LayerDrop (arXiv 1909.11556): while training an example passes a block by with chance `layer_drop`. It is drawn per example, from
    its key, so that the result does not depend on how a batch is split; the block is computed all the same (a program of static shapes
    cannot leave out rows), so it regularises and makes layers removable later, but saves no time.
    """
    if not 0.0 <= config.layer_drop < 1.0:
        raise ValueError(f"--layer_drop {config.layer_drop} is not in [0, 1)")
    for i, block in enumerate(blocks):
        own = key.fold(i) if key is not None else None
        if caches is not None:
            y = block(x, *memory, key=own, cache=caches[i], **others)
        elif config.recompute:
            y = recomputed(block, x, *memory, key=own, **others)
        else:
            y = block(x, *memory, key=own, **others)
        if own is not None and config.layer_drop:
            y = tf.where((own.fold("layer_drop").uniform(1) >= config.layer_drop)[:, :, None], y, x)
        x = y
    return x
