"""MEAD's hyper-parameters, which its NPZ files do not hold -> a model spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tpu_tlm.config import ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.models.spec import ModelSpec

_ORDERS = {None: "mead", "pre-layer-norm": "pre-layer-norm", "post-layer-norm": "post-layer-norm"}
_KNOWN = {
    *("vocab", "d_model", "d_ff", "num_heads", "layers", "embed_type", "tie", "layer_norm_eps", "features", "layer_norms_after"),
    *("embeddings_reduction", "rpr_k", "rpr_value_on", "transformer_type", "d_k"),
}


def spec_from_mead(config: Mapping[str, Any], *, mxlen: int, token_types: int = 2) -> ModelSpec:
    """The spec of a model that MEAD trained with these hyper-parameters.

    `mxlen`: rows of its position table; `token_types`: rows of its token-type table, where it has the feature `tt`. MEAD's defaults hold
    for what is absent: its own block order, padding attended to. Raises `UsageError` naming what this package's model does not cover.
    """
    unknown = sorted(k for k, v in config.items() if k not in _KNOWN and v not in (None, False))
    if unknown:
        raise UsageError(f"MEAD option {unknown[0]!r} ({config[unknown[0]]!r}) is not covered by the masked language model")
    if config["embed_type"] not in ("default", "learned-positional"):
        raise UsageError(f"MEAD embed_type {config['embed_type']!r} is not covered by the masked language model")
    rpr_k = config.get("rpr_k") or 0
    return ModelSpec(
        ModelConfig(
            d_model=config["d_model"],
            d_ff=config["d_ff"],
            num_heads=config["num_heads"],
            num_layers=config["layers"],
            d_k=config.get("d_k"),
            embed_type=config["embed_type"],
            mxlen=mxlen,
            embeddings_reduction=config.get("embeddings_reduction") or "sum",
            token_type_vsz=token_types if "tt" in config.get("features", ()) else 0,
            rpr_k=list(rpr_k) if isinstance(rpr_k, list | tuple) else [rpr_k],
            rpr_value_on=config.get("rpr_value_on", True),
            transformer_type=_ORDERS[config.get("transformer_type")],
            layer_norms_after=bool(config.get("layer_norms_after")),
            layer_norm_eps=config["layer_norm_eps"],
            tie_weights=config["tie"],
            output_bias=not config["tie"],
            mask_pad=False,
            weight_init="mead",
        ),
        vocab_size=config["vocab"],
        nctx=mxlen,
    )
