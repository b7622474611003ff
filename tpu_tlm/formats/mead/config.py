"""MEAD's hyper-parameters, which its NPZ files do not hold -> a model spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tpu_tlm.config import ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.models.spec import ModelSpec

_ORDERS = {None: "mead", "pre-layer-norm": "pre-layer-norm", "post-layer-norm": "post-layer-norm"}
_EMBEDDINGS: dict[str | None, str | None] = {
    None: None,
    "default": None,
    "positional": "sinusoidal",
    "learned-positional": "learned",
    "learned-positional-w-bias": "learned-with-bias",
}
# MEAD's activations, gelu as on its TensorFlow side; and ours by their names.
_ACTIVATIONS: dict[str | None, str] = {
    None: "gelu",
    "gelu": "gelu",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "relu": "relu",
    **{name: name for name in ("gelu-exact", "geglu", "geglu-exact", "swiglu")},
}
_REDUCTIONS: dict[str | None, str] = {
    None: "sum",
    **{name: name for name in ("sum", "sum-layer-norm", "concat")},
}
_RELATIVE = {None: "shaw", "alibi": "alibi", "t5": "t5"}
# Names that MEAD's fine-tuning embeddings have for options of its language models.
_ALIASES = {
    "word_embed_type": "embed_type",
    "reduction": "embeddings_reduction",
    "num_layers": "layers",
    "ff_pdrop": "ffn_pdrop",
    "ffn_dropout": "ffn_pdrop",
    "embed_dropout": "embeddings_dropout",
    "token_type_vocab_size": "token_type_vsz",
}
_SIZES: tuple[str, ...] = (
    "vocab",
    "d_model",
    "dsz",
    "d_ff",
    "num_heads",
    "layers",
    "d_k",
    "nctx",
    "mxlen",
)
_SIZES += ("token_type_vsz", "reduction_d_k", "d_out")
_FLAGS: tuple[str, ...] = (
    "tie",
    "rpr_value_on",
    "windowed_ra",
    "mlp",
    "causal",
    "mask_pad",
    "layer_norms_after",
)
_FLAGS += ("output_bias", "mlm")
_NUMBERS = ("layer_norm_eps", "dropout", "ffn_pdrop", "embeddings_dropout", "layer_drop")
_OTHERS: tuple[str, ...] = (
    "embed_type",
    "features",
    "embeddings_reduction",
    "rpr_k",
    "transformer_type",
)
_OTHERS += ("ra_type", "activation", "reduction_type")
# Options of MEAD's classes that do not change what a model computes.
_IGNORED = {"finetune", "skip_restore_embeddings", "pooling", "return_mask", "vocab_file"}
_IGNORED |= {"token_type_embed_unif", "weight_std", "label", "type", "name", "known_vocab"}
# MEAD's name of a kind of model -> ours, and whether padding is masked in it.
_KINDS = {
    "mlm": ("mlm", False),
    "clm": ("clm", False),
    "gmlp": ("mlm", False),
    "embed": ("embed", True),
    "dual": ("dual", True),
    "discriminator": ("discriminator", True),
    # pretrain_tag_tf: the encoder, whose head is read as a classifier of tokens.
    "tagger": ("embed", True),
    "seq2seq": ("seq2seq", True),
}


_CHOICES: dict[str, Mapping[Any, Any]] = {
    "embed_type": _EMBEDDINGS,
    "ra_type": _RELATIVE,
    "transformer_type": _ORDERS,
    "activation": _ACTIVATIONS,
    "embeddings_reduction": _REDUCTIONS,
}


def _choice(config: Mapping[str, Any], name: str, known: Mapping[Any, Any]) -> Any:
    value = config.get(name)
    if not isinstance(value, str | None) or value not in known:
        raise UsageError(
            f"MEAD option {name!r}: {value!r} is not one of {', '.join(str(k) for k in known if k)}"
        )
    return known[value]


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options under one name each, their types checked; those that are None are left out.

    Raises `UsageError` naming an option that is not known, or whose value is none.
    """
    found: dict[str, Any] = {}
    known = {*_SIZES, *_FLAGS, *_NUMBERS, *_OTHERS}
    for key, value in config.items():
        name = _ALIASES.get(key, key)
        if name in _IGNORED or value is None:
            continue
        if name not in known:
            if value is False:
                continue
            raise UsageError(f"MEAD option {key!r} ({value!r}) is not known here")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in _SIZES and not (number and 1 <= value <= 2**31 and value == int(value)):
            raise UsageError(f"MEAD option {key!r}: {value!r} is not a whole number above zero")
        if name in _FLAGS and not isinstance(value, bool):
            raise UsageError(f"MEAD option {key!r}: {value!r} is not true or false")
        if name in _NUMBERS and not (number and 0 <= value <= 1):
            raise UsageError(f"MEAD option {key!r}: {value!r} is not a number from 0 to 1")
        if name == "features" and not isinstance(value, list | tuple | dict):
            raise UsageError(f"MEAD option {key!r}: {value!r} is not a list of names")
        found[name] = int(value) if name in _SIZES else value
    for name, choices in _CHOICES.items():
        _choice(found, name, choices)
    _reaches(found)
    return found


def _reaches(config: Mapping[str, Any]) -> list[int]:
    value = config.get("rpr_k") or 0
    reaches = list(value) if isinstance(value, list | tuple) else [value]
    for reach in reaches:
        if isinstance(reach, bool) or not isinstance(reach, int) or not 0 <= reach <= 2**20:
            raise UsageError(f"MEAD option 'rpr_k': {value!r} is not a number, or a list of them")
    return reaches


def spec_from_mead(
    config: Mapping[str, Any], *, max_positions: int, token_types: int = 2, kind: str = "mlm"
) -> ModelSpec:
    """The spec of a model that MEAD trained with these hyper-parameters.

    kind: mlm, clm, gmlp, embed (its fine-tuning embeddings), tagger, dual, discriminator or
    seq2seq;
    max_positions: rows of its position table, or tokens of an example; token_types: rows of its
    token-type table, where it has the feature `tt`. MEAD's defaults hold for what is absent: its
    own block order; attention to padding in language models (`mask_pad`); layer-norm epsilon
    1e-12 in those and 1e-6 in the others. Raises `UsageError` naming an option that is not known
    or has a wrong value.
    """
    config = canonical(config)
    if kind not in _KINDS:
        raise UsageError(f"MEAD model of kind {kind!r}: known are {', '.join(_KINDS)}")
    if kind in ("embed", "tagger") and "dsz" in config and "d_model" not in config:
        config["d_model"] = config["dsz"]
    missing = [k for k in ("vocab", "d_model", "d_ff", "num_heads") if k not in config]
    if missing:
        raise UsageError(f"MEAD option {missing[0]!r} is needed and not given")
    ours, mask_pad = _KINDS[kind]
    causal = config.get("causal") or config.get("mlm") is False
    if causal and kind in ("mlm", "embed"):
        # With `mlm: false` MEAD's embeddings add the causal mask to that of padding.
        ours = "clm"
    if config.get("windowed_ra") and not any(_reaches(config)):
        raise UsageError("MEAD option 'windowed_ra': needs rpr_k, how far a window reaches")
    absolute = _choice(config, "embed_type", _EMBEDDINGS)
    relative = _choice(config, "ra_type", _RELATIVE)
    tie = config.get("tie", True)
    epsilon = 1e-12 if kind in ("mlm", "clm", "gmlp", "embed") else 1e-6
    reduction = {k: config[k] for k in ("reduction_type", "reduction_d_k", "d_out") if k in config}
    dropouts: dict[str, Any] = {
        k: float(config[k])
        for k in ("dropout", "ffn_pdrop", "embeddings_dropout", "layer_drop")
        if k in config
    }
    features = config.get("features", ())
    has_types = "tt" in features or "token_type_vsz" in config
    width = config.get("dsz")
    return ModelSpec(
        ModelConfig(
            d_model=config["d_model"],
            d_ff=config["d_ff"],
            num_heads=config["num_heads"],
            num_layers=config.get("layers", 8),
            d_k=config.get("d_k"),
            embedding_size=width if width != config["d_model"] else None,
            position_encoding=[e for e in (absolute, relative) if e is not None],
            max_positions=max_positions,
            embeddings_reduction=_choice(config, "embeddings_reduction", _REDUCTIONS),
            type_vocab_size=token_types if has_types else 0,
            rpr_k=_reaches(config),
            rpr_value_on=config.get("rpr_value_on", True),
            windowed_ra=config.get("windowed_ra", False),
            single_head=config["num_heads"] == 1,
            mlp=kind == "gmlp" or config.get("mlp", False),
            compat="mead",
            transformer_type=(
                "post-layer-norm"
                if config.get("layer_norms_after")
                else _choice(config, "transformer_type", _ORDERS)
            ),
            layer_norm_eps=config.get("layer_norm_eps") or epsilon,
            activation=_choice(config, "activation", _ACTIVATIONS),
            tie_weights=tie,
            output_bias=config.get("output_bias", not tie),
            mask_pad=config.get("mask_pad", mask_pad),
            weight_init="mead",
            **reduction,
            **dropouts,
        ),
        vocab_size=config["vocab"],
        seq_length=config.get("nctx") or max_positions,
        kind=ours,
    )
