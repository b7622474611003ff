"""MEAD's hyper-parameters, which its NPZ files do not hold -> a model spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tpu_tlm.config import ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.models.spec import ModelSpec

_ORDERS = {None: "mead", "pre-layer-norm": "pre-layer-norm", "post-layer-norm": "post-layer-norm"}
_EMBEDDINGS = ("default", "positional", "learned-positional", "learned-positional-w-bias")
_RELATIVE = {None: "shaw", "alibi": "alibi", "t5": "t5"}
_KNOWN = {
    *(
        "vocab",
        "d_model",
        "d_ff",
        "num_heads",
        "layers",
        "num_layers",
        "embed_type",
        "tie",
        "layer_norm_eps",
        "features",
        "layer_norms_after",
    ),
    *(
        "embeddings_reduction",
        "rpr_k",
        "rpr_value_on",
        "transformer_type",
        "d_k",
        "windowed_ra",
        "ra_type",
        "nctx",
        "mlp",
        "causal",
    ),
    *("activation", "reduction_type", "reduction_d_k", "d_out", "mxlen", "token_type_vsz"),
}
# MEAD's name of a kind of model -> ours, and whether padding is masked in it.
_KINDS = {
    "mlm": ("mlm", False),
    "clm": ("clm", False),
    "gmlp": ("mlm", False),
    "embed": ("embed", True),
    "dual": ("dual", True),
    "discriminator": ("discriminator", True),
    "seq2seq": ("seq2seq", True),
}


def _choice(config: Mapping[str, Any], name: str, known: Mapping[Any, str]) -> Any:
    value = config.get(name)
    if value not in known:
        raise UsageError(
            f"MEAD option {name!r}: {value!r} is not one of {', '.join(str(k) for k in known if k)}"
        )
    return known[value]


def spec_from_mead(
    config: Mapping[str, Any], *, max_positions: int, token_types: int = 2, kind: str = "mlm"
) -> ModelSpec:
    """The spec of a model that MEAD trained with these hyper-parameters.

    `kind`: mlm, clm, gmlp, embed (its fine-tuning embeddings), dual, discriminator or seq2seq; `max_positions`: rows of its position table, or
    tokens of an example; `token_types`: rows of its token-type table, where it has the feature `tt`. MEAD's defaults hold for what is
    absent: its own block order; padding attended to in language models; layer-norm epsilon 1e-12 in those and 1e-6 in the others. Raises
    `UsageError` naming an option that is not known here.
    """
    unknown = sorted(k for k, v in config.items() if k not in _KNOWN and v not in (None, False))
    if unknown:
        raise UsageError(f"MEAD option {unknown[0]!r} ({config[unknown[0]]!r}) is not known here")
    if kind not in _KINDS:
        raise UsageError(f"MEAD model of kind {kind!r}: known are {', '.join(_KINDS)}")
    missing = [k for k in ("vocab", "d_model", "d_ff", "num_heads") if not config.get(k)]
    if missing:
        raise UsageError(f"MEAD option {missing[0]!r} is needed and not given")
    if config.get("causal") and kind == "mlm":
        kind = "clm"
    ours, mask_pad = _KINDS[kind]
    ra_type: Any = _choice(config, "ra_type", _RELATIVE)
    rpr_k = config.get("rpr_k") or 0
    tie = config.get("tie", True)
    epsilon = 1e-12 if ours in ("mlm", "clm", "embed") else 1e-6
    reduction = {k: config[k] for k in ("reduction_type", "reduction_d_k", "d_out") if k in config}
    return ModelSpec(
        ModelConfig(
            d_model=config["d_model"],
            d_ff=config["d_ff"],
            num_heads=config["num_heads"],
            num_layers=config.get("layers") or config.get("num_layers") or 8,
            d_k=config.get("d_k"),
            embed_type=_choice(
                config, "embed_type", {None: "default", **{k: k for k in _EMBEDDINGS}}
            ),
            max_positions=max_positions,
            embeddings_reduction=config.get("embeddings_reduction") or "sum",
            type_vocab_size=token_types if "tt" in config.get("features", ()) else 0,
            rpr_k=list(rpr_k) if isinstance(rpr_k, list | tuple) else [rpr_k],
            rpr_value_on=config.get("rpr_value_on", True),
            ra_type=ra_type,
            windowed_ra=bool(config.get("windowed_ra")),
            single_head=config["num_heads"] == 1,
            mlp=kind == "gmlp" or bool(config.get("mlp")),
            compat="mead",
            transformer_type=(
                "post-layer-norm"
                if config.get("layer_norms_after")
                else _choice(config, "transformer_type", _ORDERS)
            ),
            layer_norm_eps=config.get("layer_norm_eps") or epsilon,
            activation=config.get("activation") or "gelu",
            tie_weights=tie,
            output_bias=not tie,
            mask_pad=mask_pad,
            weight_init="mead",
            **reduction,
        ),
        vocab_size=config["vocab"],
        seq_length=config.get("nctx") or max_positions,
        kind=ours,
    )
