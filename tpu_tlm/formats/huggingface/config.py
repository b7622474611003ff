"""HuggingFace's config.json <-> a model spec: BERT, RoBERTa, ELECTRA, GPT-2."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tpu_tlm.config import ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.compatibility import as_flag, differences
from tpu_tlm.models.spec import ModelSpec

FAMILIES = ("bert", "roberta", "electra", "gpt2")
# Key of config.json under which our spec travels; other readers keep it or pass over it.
SPEC_KEY = "tpu_tlm"

_ACTIVATIONS: dict[str, Any] = {
    "gelu": "gelu-exact",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
}
_THEIR_ACTIVATION = {"gelu-exact": "gelu", "gelu": "gelu_new", "relu": "relu"}
_NAMES = {
    "d_model": ("hidden_size", "n_embd"),
    "num_layers": ("num_hidden_layers", "n_layer"),
    "num_heads": ("num_attention_heads", "n_head"),
    "d_ff": ("intermediate_size", "n_inner"),
    "positions": ("max_position_embeddings", "n_positions"),
}
# Settings that would change the numbers; the values are the only ones that are covered.
_ONLY = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
}


def family_of(config: Mapping[str, Any], where: str) -> str:
    """The family that a config.json names. Raises `UsageError` for one that is not covered."""
    kind = config.get("model_type")
    if kind is None and "hidden_size" in config:  # BERT's own bert_config.json names no type
        return "bert"
    if kind not in FAMILIES:
        raise UsageError(f"{where}: model_type {kind!r} is not covered; {', '.join(FAMILIES)} are")
    return str(kind)


def offset_of(family: str, config: Mapping[str, Any]) -> int:
    """The row of the position table where a text starts: RoBERTa counts from past its padding id."""
    return int(config.get("pad_token_id", 1)) + 1 if family == "roberta" else 0


def _size(config: Mapping[str, Any], name: str, family: str, where: str) -> int:
    key = _NAMES[name][family == "gpt2"]
    value = config.get(key)
    if value is None and key == "n_inner":
        value = 4 * _size(config, "d_model", family, where)
    if not isinstance(value, int) or value < 1:
        raise UsageError(f"{where}: {key} is {value!r}; a whole number above zero is needed")
    return value


def spec_of(config: Mapping[str, Any], kind: str, where: str) -> ModelSpec:
    """The spec of the model that a config.json describes.

    `kind`: of model, by the head that the file has (mlm, clm, discriminator, embed for none). Raises `UsageError` naming a setting that
    is not covered.
    """
    family = family_of(config, where)
    head = kind in ("mlm", "clm")
    for key, only in _ONLY.items():
        if config.get(key, only) not in (only, None):
            raise UsageError(f"{where}: {key} {config[key]!r} is not covered; {only!r} is")
    activation = config.get(
        "activation_function" if family == "gpt2" else "hidden_act",
        "gelu_new" if family == "gpt2" else "gelu",
    )
    if activation not in _ACTIVATIONS:
        raise UsageError(
            f"{where}: activation {activation!r} is not covered; {', '.join(_ACTIVATIONS)} are"
        )
    if head and family in ("roberta", "electra") and _ACTIVATIONS[activation] != "gelu-exact":
        raise UsageError(
            f"{where}: hidden_act {activation!r} is not covered beside the head, which {family} computes with 'gelu'"
        )
    d_model, num_heads = (
        _size(config, "d_model", family, where),
        _size(config, "num_heads", family, where),
    )
    if d_model % num_heads:
        raise UsageError(
            f"{where}: hidden size {d_model} cannot be divided among {num_heads} heads"
        )
    width = config.get("embedding_size") if family == "electra" else None
    positions = _size(config, "positions", family, where) - offset_of(family, config)
    causal = family == "gpt2"
    return ModelSpec(
        ModelConfig(
            d_model=d_model,
            d_ff=_size(config, "d_ff", family, where),
            num_heads=num_heads,
            num_layers=_size(config, "num_layers", family, where),
            embedding_size=width if width != d_model else None,
            embed_type="learned-positional",
            max_positions=positions,
            embeddings_reduction="sum" if causal else "sum-layer-norm",
            type_vocab_size=0 if causal else int(config.get("type_vocab_size", 2)),
            rpr_k=[0],
            transformer_type="pre-layer-norm" if causal else "post-layer-norm",
            layer_norm_eps=float(
                config.get(
                    "layer_norm_epsilon" if causal else "layer_norm_eps", 1e-5 if causal else 1e-12
                )
            ),
            activation=_ACTIVATIONS[activation],
            tie_weights=bool(config.get("tie_word_embeddings", True)) or not head,
            output_bias=head and not causal,
            mlm_head="bert" if kind in ("mlm", "discriminator") else "none",
            mask_pad=not causal,
            dropout=float(config.get("resid_pdrop" if causal else "hidden_dropout_prob", 0.1)),
            embeddings_dropout=float(
                config.get("embd_pdrop" if causal else "hidden_dropout_prob", 0.1)
            ),
            weight_std=float(config.get("initializer_range", 0.02)),
        ),
        vocab_size=int(config["vocab_size"]) if "vocab_size" in config else 0,
        seq_length=positions,
        pad_id=int(config.get("pad_token_id") or 0)
        if family != "roberta"
        else int(config.get("pad_token_id", 1)),
        kind=kind,
    )


def config_of(spec: ModelSpec, family: str, architecture: str, where: str) -> dict[str, Any]:
    """The config.json of a model that is to be written as `architecture` of a family.

    Raises `UsageError` naming the options that the family has no place for.
    """
    ours = spec.config
    causal = family == "gpt2"
    names = {name: both[causal] for name, both in _NAMES.items()}
    if ours.activation not in _THEIR_ACTIVATION:
        raise UsageError(
            f"{where}: --activation {ours.activation} has no place in a {family} model"
        )
    positions = (ours.max_positions or spec.seq_length) + (
        spec.pad_id + 1 if family == "roberta" else 0
    )
    config: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": family,
        "vocab_size": spec.vocab_size,
        names["d_model"]: ours.d_model,
        names["num_layers"]: ours.num_layers,
        names["num_heads"]: ours.num_heads,
        names["d_ff"]: ours.d_ff,
        names["positions"]: positions,
        "activation_function" if causal else "hidden_act": _THEIR_ACTIVATION[ours.activation],
        "layer_norm_epsilon" if causal else "layer_norm_eps": ours.layer_norm_eps,
        "initializer_range": ours.weight_std,
        "tie_word_embeddings": ours.tie_weights,
        "dtype": "float32",
    }
    if causal:
        config.update(
            resid_pdrop=ours.dropout, attn_pdrop=ours.dropout, embd_pdrop=ours.embeddings_dropout
        )
        # GPT-2 begins a text with the token that ends one.
        config.update(
            bos_token_id=spec.eol_id if spec.prefix_id is None else spec.prefix_id,
            eos_token_id=spec.eol_id,
        )
        if ours.d_ff == 4 * ours.d_model:
            config["n_inner"] = None
    else:
        config.update(hidden_dropout_prob=ours.dropout, attention_probs_dropout_prob=ours.dropout)
        config.update(type_vocab_size=ours.type_vocab_size, pad_token_id=spec.pad_id)
    if family == "roberta":
        config.update(bos_token_id=spec.prefix_id, eos_token_id=spec.suffix_id)
    if family == "electra":
        config.update(embedding_size=ours.embedding_size or ours.d_model)
    read_back = spec_of(config, spec.kind, where)
    if wrong := [d for d in differences(read_back, spec) if d.name != "mask_pad"]:
        wanted = ", ".join(
            f"{as_flag(d.name, d.right)} (only {as_flag(d.name, d.left)})"
            for d in wrong
            if None not in d
        )
        raise UsageError(f"{where}: a {family} model has no place for {wanted}")
    config[SPEC_KEY] = json.loads(spec.to_json())
    return config


def embedded_spec(config: Mapping[str, Any], where: str) -> ModelSpec | None:
    """Our own spec inside a config.json, or None."""
    inside = config.get(SPEC_KEY)
    if inside is None:
        return None
    return ModelSpec.from_json(json.dumps(inside), f"{where}: {SPEC_KEY}")
