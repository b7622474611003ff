"""Options of the model."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tpu_tlm.config.objectives import DUAL_ENCODER, SEQ2SEQ
from tpu_tlm.config.options import OptionGroup, opt
from tpu_tlm.config.position_encodings import CHOICES, OLD_NAMES, check, describe, translate
from tpu_tlm.errors import OptionError

# An option that decides what the model computes.
_shape = functools.partial(opt, shapes_model=True)

_RATE: dict[str, Any] = {"unit": "fraction", "minimum": 0, "below": 1, "may_change": True}


@dataclass(frozen=True)
class ModelConfig(OptionGroup):
    """Model."""

    old_options: ClassVar[tuple[str, ...]] = OLD_NAMES

    d_model: int = _shape(
        512, "width of the model", unit="units", minimum=1, also_called=("hidden_size", "n_embd")
    )
    d_ff: int = _shape(
        2048,
        "width inside the feed-forward layers",
        unit="units",
        minimum=1,
        also_called=("intermediate_size", "ffn_dim"),
    )
    num_heads: int = _shape(
        8,
        "attention heads",
        unit="heads",
        minimum=1,
        also_called=("num_attention_heads", "n_head"),
    )
    num_layers: int = _shape(
        8,
        "encoder blocks",
        unit="layers",
        minimum=1,
        aliases=("layers",),
        also_called=("num_hidden_layers", "n_layer", "depth"),
    )
    d_k: int | None = _shape(
        None, "width of one attention head; none = d_model / num_heads", unit="units", minimum=1
    )
    embedding_size: int | None = _shape(
        None,
        "width of a factorized token embedding (ALBERT, ELECTRA); none = d_model",
        unit="units",
        minimum=1,
        aliases=("dsz",),
    )
    position_encoding: list[str] = _shape(["shaw"], describe(), choices=CHOICES)
    max_positions: int | None = _shape(
        None,
        "rows of the learned position table; none = seq_length",
        unit="positions",
        minimum=1,
        aliases=("mxlen",),
        also_called=("max_position_embeddings", "n_positions"),
    )
    embeddings_reduction: Literal["sum", "concat", "sum-layer-norm"] = _shape(
        "sum", "how the embeddings of an input are combined; sum-layer-norm: BERT's"
    )
    type_vocab_size: int = _shape(
        0,
        "number of token types (BERT: 2); 0 = no token-type table",
        unit="types",
        minimum=0,
        aliases=("token_type_vsz",),
    )
    rpr_k: list[int] = _shape(
        [8],
        "maximum distance of Shaw's relative positions, one for all layers or one per layer; 0 = "
        "none",
        unit="positions",
        minimum=0,
    )
    rpr_value_on: bool = _shape(True, "add relative positions to the values too")
    windowed_ra: bool = _shape(False, "attend to tokens at most --rpr_k away only")
    local_window: int = _shape(
        0,
        "local layers attend to tokens at most this far away; 0 = all layers are global",
        unit="positions",
        minimum=0,
    )
    global_every: int = _shape(
        3,
        "with --local_window: layers 0, n, 2n, ... are global",
        unit="layers",
        minimum=1,
        only_with={"local_window": ("(set)",)},
    )
    rotary_base: float = _shape(
        10000.0,
        "rotary: base of the rotation frequencies",
        unit="number",
        above=0,
        only_with={"position_encoding": ("rotary",)},
        also_called=("rope_theta",),
    )
    rotary_base_local: float | None = _shape(
        None,
        "rotary_base of local layers (--local_window); none = rotary_base",
        unit="number",
        above=0,
        only_with={"position_encoding": ("rotary",)},
    )
    single_head: bool = _shape(
        False, "one head without output projection, with values of width d_model (MEAD's)"
    )
    segment_mask: bool = _shape(False, "do not attend across end-of-line tokens")
    mlp: bool = _shape(False, "gated MLP blocks (gMLP, arXiv 2105.08050) instead of attention")
    compat: Literal["none", "mead"] = _shape(
        "none",
        "mead: compute as MEAD where it differs: windows give weight to places outside the text, "
        "reductions count padding and are multiplied by sqrt(length)",
    )
    transformer_type: Literal["pre-layer-norm", "post-layer-norm", "mead"] = _shape(
        "pre-layer-norm",
        "place of the norms; mead: MEAD's default, where the normalized value is the residual",
        shorthands={"layer_norms_after": "post-layer-norm"},
    )
    norm_type: Literal["layer-norm", "rms-norm"] = _shape("layer-norm", "kind of norm")
    layer_norm_eps: float = _shape(
        1e-12, "added to the variance in norms", unit="number", minimum=0
    )
    activation: Literal["gelu", "gelu-exact", "relu", "geglu", "geglu-exact", "swiglu"] = _shape(
        "gelu",
        "activation of the feed-forward layers; gelu: tanh approximation; geglu, swiglu: gated, "
        "with a third matrix",
        also_called=("hidden_act", "activation_function"),
    )
    use_bias: bool = _shape(
        True, "biases in attention projections, feed-forward layers and the bert head"
    )
    norm_bias: bool = _shape(True, "biases in layer norms")
    scale_attention: bool = _shape(True, "divide attention scores by sqrt(d_k) (T5 does not)")
    scale_logits: bool = _shape(False, "divide what the token head reads by sqrt(d_model) (T5)")
    skip_first_norm: bool = _shape(
        False,
        "no norm before attention in the first layer (ModernBERT)",
        only_with={"transformer_type": ("pre-layer-norm",)},
    )
    shared_layers: bool = _shape(False, "all encoder layers have the same weights (ALBERT)")
    share_positions: bool = _shape(
        False,
        "position_encoding t5: all layers of a stack have one table of relative positions (T5)",
    )
    tie_weights: bool = _shape(
        True,
        "use the token embedding as output projection",
        also_called=("tie_word_embeddings",),
    )
    output_bias: bool = _shape(False, "add a bias to the logits")
    mlm_head: Literal["none", "bert"] = _shape(
        "none", "layers before the output projection; bert: dense, activation, layer norm"
    )
    reduction_type: Literal[
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
    ] = _shape(
        "2ha",
        "dual encoder: pooling of a text; sha, 2ha: one or two attention heads, then the sum "
        "divided by sqrt(length), the mean or the maximum",
        only_with=DUAL_ENCODER,
    )
    reduction_d_k: int = _shape(
        64,
        "dual encoder: width of queries and keys of the pooling heads",
        unit="units",
        minimum=1,
        only_with=DUAL_ENCODER,
    )
    d_out: int = _shape(
        512,
        "dual encoder: width of a text's vector",
        unit="units",
        minimum=1,
        only_with=DUAL_ENCODER,
    )
    stacking_layers: list[int] = _shape(
        [],
        "dual encoder: hidden sizes of ConveRT's feed-forward head; none = one dense layer",
        unit="units",
        minimum=1,
        only_with=DUAL_ENCODER,
    )
    init_temp: float = opt(
        1.0,
        "dual encoder: logarithm of the initial scale of the similarities",
        unit="number",
        minimum=-20,
        maximum=20,
        only_with=DUAL_ENCODER,
    )
    num_decoder_layers: int | None = _shape(
        None,
        "encoder-decoder: decoder blocks; none = num_layers",
        unit="layers",
        minimum=1,
        only_with=SEQ2SEQ,
    )
    target_embeddings: bool = _shape(
        False,
        "encoder-decoder: the target has learned positions and an embedding norm of its own (BART)",
        only_with=SEQ2SEQ,
    )
    mask_pad: bool = _shape(True, "do not attend to padding (MEAD's pre-training attends to it)")
    dropout: float = opt(
        0.1,
        "dropout on attention weights and residual branches",
        also_called=("hidden_dropout_prob", "dropout_rate"),
        **_RATE,
    )
    ffn_pdrop: float = opt(0.0, "dropout inside the feed-forward layers", **_RATE)
    embeddings_dropout: float = opt(0.0, "dropout on the embeddings", **_RATE)
    weight_init: Literal["bert", "mead"] = opt(
        "bert",
        "initial weights; bert: truncated normal with --weight_std; mead: Glorot uniform, and "
        "uniform embeddings",
    )
    weight_std: float = opt(
        0.02,
        "bert: standard deviation of the initial weights",
        unit="number",
        above=0,
        only_with={"weight_init": ("bert",)},
        also_called=("initializer_range",),
    )
    residual_scaling: bool = opt(
        False,
        "divide the initial weights at the end of residual branches by sqrt(number of branches) "
        "(GPT-2)",
    )
    layer_drop: float = opt(0.0, "probability of skipping a block in training (LayerDrop)", **_RATE)
    recompute: bool = opt(
        False,
        "recompute the activations of a block in the backward pass: less memory, more time",
        may_change=True,
        also_called=("gradient_checkpointing",),
    )

    @staticmethod
    def translate_old_options(
        values: Mapping[str, Any], where: str, base: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Options with `embed_type` and `ra_type` as `position_encoding`."""
        return translate(values, where, base)

    def check(self) -> None:
        # Without a reach, or without attention, Shaw's tables have no rows.
        idle = {"none"} if any(self.rpr_k) and not self.mlp else {"none", "shaw"}
        names = [name for name in self.position_encoding if name not in idle]
        object.__setattr__(self, "position_encoding", check(names))

    def check_complete(self) -> None:
        if self.d_k is None and self.d_model % self.num_heads:
            raise OptionError(
                f"--d_model {self.d_model} cannot be divided among --num_heads {self.num_heads}; "
                "give --d_k"
            )
        if self.single_head and self.num_heads != 1:
            raise OptionError(
                f"--single_head is a model of one head, and this is --num_heads {self.num_heads}"
            )
        if self.windowed_ra and self.local_window:
            raise OptionError(
                f"--windowed_ra and --local_window {self.local_window} exclude each other: leave "
                "one of the two out"
            )
        if len(self.rpr_k) > 1 and len(self.rpr_k) != self.num_layers:
            raise OptionError(
                f"--rpr_k has {len(self.rpr_k)} numbers and --num_layers is {self.num_layers}: "
                "give one number, or one per layer"
            )

    def rpr_k_of(self, layer: int) -> int:
        """Largest distance that has its own row in the tables of one layer (0: no tables)."""
        if not self.rpr_k or self.mlp:
            return 0
        return self.rpr_k[0] if len(self.rpr_k) == 1 else self.rpr_k[layer]

    def window_of(self, layer: int) -> int | None:
        """Maximum distance that one layer attends over (None: unlimited)."""
        if self.windowed_ra:
            return self.rpr_k_of(layer)
        return self.local_window if self.local_window and layer % self.global_every else None
