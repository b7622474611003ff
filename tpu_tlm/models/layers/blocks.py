"""What encoder and decoder share: the attention of a layer, and running a stack of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.attention import MultiHeadedAttention
from tpu_tlm.models.layers.cache import Cache
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.layer import Layer
from tpu_tlm.models.layers.remat import recompute
from tpu_tlm.models.layers.variables import lend
from tpu_tlm.models.positions.registry import relative_encoding


def make_attention(
    config: ModelConfig, layer: int, *, causal: bool = False, cross: bool = False, **kwargs: Any
) -> MultiHeadedAttention:
    """The attention of one layer, with the relative position encoding of the configuration.

    Cross attention has no window, and positions only where the encoding supports it (Shaw's, as in
    MEAD). Raises ValueError for options that contradict each other.
    """
    if config.windowed_ra and config.local_window:
        raise ValueError("--windowed_ra and --local_window are two ways to say the same; give one")
    kwargs.update(
        d_k=config.d_k,
        pdrop=config.dropout,
        single_head=config.single_head,
        use_bias=config.use_bias,
        scaled=config.scale_attention,
        window=None if cross else config.window_of(layer),
    )
    encoding = relative_encoding(config)
    if encoding is None or (cross and not encoding.in_cross_attention):
        return MultiHeadedAttention(config.d_model, config.num_heads, **kwargs)
    return encoding.attention(config, layer, causal=causal, cross=cross, **kwargs)


def share_positions(config: ModelConfig, attentions: Sequence[MultiHeadedAttention]) -> None:
    """Lend the first layer's table of relative positions to the others, if configured."""
    if config.share_positions and relative_encoding(config) is not None:
        for attention in attentions[1:]:
            lend(attentions[0].rel_embedding, attention)


def check_layers(config: ModelConfig, count: int) -> None:
    """Raise ValueError for options per layer that do not fit `count` layers."""
    if len(config.rpr_k) > 1 and len(config.rpr_k) != count:
        raise ValueError(
            f"--rpr_k has {len(config.rpr_k)} numbers for {count} layers; give one, or one per"
            " layer"
        )
    if config.shared_layers and (config.local_window or len(config.rpr_k) > 1):
        raise ValueError("--shared_layers: --local_window and --rpr_k per layer need own layers")
    if config.local_window and config.global_every < 1:
        raise ValueError(f"--global_every must be 1 or more, not {config.global_every}")


def run_blocks(
    blocks: Sequence[Layer],
    config: ModelConfig,
    x: tf.Tensor,
    *encoder_output: tf.Tensor,
    key: Key | None,
    caches: Sequence[Cache] | None = None,
    **others: Any,
) -> tf.Tensor:
    """Run `x` `[B, T, d]` through the blocks, with LayerDrop and recomputation if configured.

    `layer_drop` is the probability that an example skips a block in training (LayerDrop, arXiv
    1909.11556). It is drawn per example from the example's key, so that the result does not depend
    on how a batch is split. The block is computed all the same, since a program of static shapes
    cannot leave out rows: LayerDrop regularizes and makes layers removable later, but saves no
    time. Raises ValueError for a probability outside [0, 1).
    """
    if not 0.0 <= config.layer_drop < 1.0:
        raise ValueError(f"--layer_drop {config.layer_drop} is not in [0, 1)")
    for i, block in enumerate(blocks):
        own = key.fold(i) if key is not None else None
        if caches is not None:
            y = block(x, *encoder_output, key=own, cache=caches[i], **others)
        elif config.recompute:
            y = recompute(block, x, *encoder_output, key=own, **others)
        else:
            y = block(x, *encoder_output, key=own, **others)
        if own is not None and config.layer_drop:
            y = tf.where((own.fold("layer_drop").uniform(1) >= config.layer_drop)[:, :, None], y, x)
        x = y
    return x
