"""Options of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tpu_tlm.config import position_encodings
from tpu_tlm.config.cli import opt


@dataclass(frozen=True)
class ModelConfig:
    """Model."""

    # Flags and keys of the first edition, which `translate_old_options` replaces.
    old_options: ClassVar[tuple[str, ...]] = position_encodings.OLD_NAMES

    d_model: int = opt(512, "width of the model", unit="units")
    d_ff: int = opt(2048, "width inside the feed-forward layers", unit="units")
    num_heads: int = opt(8, "attention heads", unit="heads")
    num_layers: int = opt(8, "encoder blocks", unit="layers", aliases=("layers",))
    d_k: int | None = opt(None, "width of one head; none = d_model / num_heads", unit="units")
    embedding_size: int | None = opt(
        None,
        "width of the token table when it is factorised (ALBERT, ELECTRA); none = d_model",
        unit="units",
        aliases=("dsz",),
    )
    position_encoding: list[str] = opt(
        ["shaw"], position_encodings.describe(), choices=position_encodings.CHOICES
    )
    max_positions: int | None = opt(
        None,
        "rows of the learned position table; none = seq_length",
        unit="positions",
        aliases=("mxlen",),
    )
    embeddings_reduction: str = opt(
        "sum", "how embedded features are joined", choices=("sum", "concat", "sum-layer-norm")
    )
    type_vocab_size: int = opt(
        0,
        "token types (BERT has 2); 0 = no token-type table",
        unit="types",
        aliases=("token_type_vsz",),
    )
    rpr_k: list[int] = opt(
        [8],
        "Shaw relative positions reach this far; one number or one per layer; 0 = off",
        unit="positions",
    )
    rpr_value_on: bool = opt(True, "relative positions act on the values too")
    windowed_ra: bool = opt(False, "a token sees others up to --rpr_k away only")
    local_window: int = opt(
        0,
        "a token sees others up to this far away only, in the layers that are not global; 0 = all",
        unit="positions",
    )
    global_every: int = opt(
        3, "with --local_window: layers 0, n, 2n... see everything", unit="layers"
    )
    rotary_base: float = opt(
        10000.0, "rotary: the longest wavelength is 2 pi times this", unit="number"
    )
    rotary_base_local: float | None = opt(
        None, "rotary_base of the layers with --local_window; none = rotary_base", unit="number"
    )
    single_head: bool = opt(
        False,
        "the form of one head without output projection, values as wide as the model (MEAD's --num_heads 1)",
    )
    segment_mask: bool = opt(
        False, "text after an end-of-line token and text before it do not see each other"
    )
    mlp: bool = opt(False, "gated MLP blocks instead of attention (arXiv 2105.08050)")
    compat: str = opt(
        "none",
        "mead: where MEAD differs, do as it does (windows give probability to places off the text; reductions count padding and "
        "multiply by the "
        "root of the length)",
        choices=("none", "mead"),
    )
    transformer_type: str = opt(
        "pre-layer-norm",
        "where the norms stand; mead: its default order, in which the normalised value is the residual",
        choices=("pre-layer-norm", "post-layer-norm", "mead"),
    )
    layer_norms_after: bool = opt(False, "the same as --transformer_type post-layer-norm")
    norm_type: str = opt("layer-norm", "kind of norm", choices=("layer-norm", "rms-norm"))
    layer_norm_eps: float = opt(1e-12, "added to the variance in norms", unit="number")
    activation: str = opt(
        "gelu",
        "inside the feed-forward layers; gelu is the tanh form; geglu and swiglu have a gate, a third matrix",
        choices=("gelu", "gelu-exact", "relu", "geglu", "geglu-exact", "swiglu"),
    )
    use_bias: bool = opt(True, "biases in attention, feed-forward layers and the bert head")
    norm_bias: bool = opt(True, "biases in layer norms")
    skip_first_norm: bool = opt(
        False, "pre-layer-norm: the first layer has no norm before attention (ModernBERT)"
    )
    shared_layers: bool = opt(False, "all encoder blocks have the same weights (ALBERT)")
    tie_weights: bool = opt(True, "the output projection is the token table")
    output_bias: bool = opt(False, "a bias on the logits")
    mlm_head: str = opt(
        "none",
        "what stands before the projection; bert: dense, activation, layer norm",
        choices=("none", "bert"),
    )
    reduction_type: str = opt(
        "2ha",
        "dual encoder: how positions become one vector; sha, 2ha: one or two attention heads, then sum / root of the length, mean or max",
        choices=(
            "2ha",
            "2ha_mean",
            "2ha_max",
            "sha",
            "sha_mean",
            "sha_max",
            "cls",
            "mean",
            "max",
            "sqrt_length",
        ),
    )
    reduction_d_k: int = opt(
        64, "dual encoder: width of queries and keys of the reduction heads", unit="units"
    )
    d_out: int = opt(512, "dual encoder: width of a text's vector", unit="units")
    stacking_layers: list[int] = opt(
        [],
        "dual encoder: hidden sizes of ConveRT's feed-forward head; none = one dense layer",
        unit="units",
    )
    init_temp: float = opt(
        1.0, "dual encoder: logarithm of the scale of the similarities at the start", unit="number"
    )
    num_decoder_layers: int | None = opt(
        None, "decoder blocks of an encoder-decoder; none = num_layers", unit="layers"
    )
    mask_pad: bool = opt(True, "padding is not attended to (MEAD's pre-training attends to it)")
    dropout: float = opt(0.1, "on attention weights and residual branches", unit="0..1")
    ffn_pdrop: float = opt(0.0, "inside the feed-forward layers", unit="0..1")
    embeddings_dropout: float = opt(0.0, "on the reduced embeddings", unit="0..1")
    weight_init: str = opt(
        "bert",
        "bert: truncated normal of weight_std; mead: Glorot uniform, tables uniform",
        choices=("bert", "mead"),
    )
    weight_std: float = opt(0.02, "standard deviation of the bert initialisation", unit="number")
    residual_scaling: bool = opt(
        False,
        "initial matrices that end a residual branch are divided by the root of the number of branches (GPT-2)",
    )
    layer_drop: float = opt(
        0.0, "chance that an example passes a block by, while training (LayerDrop)", unit="0..1"
    )
    recompute: bool = opt(
        False,
        "keep only the input of each block for the backward pass and compute the rest again: less memory, more time",
    )

    @staticmethod
    def translate_old_options(
        values: Mapping[str, Any], where: str, base: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Options with `embed_type` and `ra_type` as `position_encoding`."""
        return position_encodings.translate(values, where, base)

    def __post_init__(self) -> None:
        if self.layer_norms_after:
            object.__setattr__(self, "transformer_type", "post-layer-norm")
        # Without a reach, or without attention, Shaw's tables have no rows.
        idle = {"none"} if any(self.rpr_k) and not self.mlp else {"none", "shaw"}
        names = [name for name in self.position_encoding if name not in idle]
        object.__setattr__(self, "position_encoding", position_encodings.check(names))

    def rpr_k_of(self, layer: int) -> int:
        """Largest distance that has its own row in the tables of one layer (0: no tables)."""
        if not self.rpr_k or self.mlp:
            return 0
        return self.rpr_k[0] if len(self.rpr_k) == 1 else self.rpr_k[layer]

    def window_of(self, layer: int) -> int | None:
        """Largest distance that attention covers in one layer (None: no limit)."""
        if self.windowed_ra:
            return self.rpr_k_of(layer)
        return self.local_window if self.local_window and layer % self.global_every else None
