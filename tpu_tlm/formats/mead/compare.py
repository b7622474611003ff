"""MEAD's hyper-parameters beside a model that brings its own: what contradicts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tpu_tlm.errors import UsageError
from tpu_tlm.models.spec import ModelSpec

_SIZES = {
    "d_model": "d_model",
    "d_ff": "d_ff",
    "layers": "num_layers",
    "num_heads": "num_heads",
    "mlp": "mlp",
}
_POSITIONS = {
    "default": (),
    "positional": ("sinusoidal",),
    "learned-positional": ("learned", "learned-with-bias"),
    # Without token types of its own, MEAD adds that of the first type to every token.
    "learned-positional-w-bias": ("learned", "learned-with-bias"),
}
_ABSOLUTE = ("sinusoidal", "learned", "learned-with-bias")
_RELATIVE = {"rpr": "shaw", "alibi": "alibi", "t5": "t5"}
_POST = "post-layer-norm"


def compared(config: Mapping[str, Any], spec: ModelSpec, path: str) -> list[str]:
    """Lines about options that the model at `path` does not follow, though they may differ.

    config: options by MEAD's canonical names, as they were given. Raises `UsageError` naming the
    options that the model's own configuration contradicts.
    """
    given = dict(config)
    if spec.elmo is not None:
        if given:
            raise UsageError(f"{path}: is an ELMo, which has no {', '.join(given)}; leave it out")
        return []
    wrong, notes = [], []
    there = {name: getattr(spec.config, ours) for name, ours in _SIZES.items()}
    there |= {"dsz": spec.config.embedding_size or spec.config.d_model}
    there |= {"layer_norms_after": spec.config.transformer_type == _POST}
    there |= {"embeddings_reduction": spec.config.embeddings_reduction}
    there |= {"token_type_vsz": spec.config.type_vocab_size, "mlm": spec.kind != "clm"}
    there |= {"windowed_ra": spec.config.windowed_ra}
    there |= {"d_k": spec.config.d_k or spec.config.d_model // spec.config.num_heads}
    for name, own in there.items():
        if name in given and given[name] != own:
            wrong.append(f"{name} {given[name]} (there {own})")
    order = given.get("transformer_type")
    if order is not None and order != spec.config.transformer_type:
        wrong.append(f"transformer_type {order} (there {spec.config.transformer_type})")
    wrong += _positions(given, spec)
    activation = given.get("activation")
    if activation is not None and _family(activation) != _family(spec.config.activation):
        wrong.append(f"activation {activation} (there {spec.config.activation})")
    if wrong:
        raise UsageError(
            f"{path}: contradicts the configuration: {'; '.join(wrong)}; leave these options out, "
            "or name another model"
        )
    replaced = {
        "layer_norm_eps": spec.config.layer_norm_eps,
        "mxlen": spec.config.max_positions or spec.seq_length,
    }
    for name, own in replaced.items():
        if name in given and given[name] != own:
            notes.append(f"{name} {given[name]}: that of the model is taken, {own}")
    return notes


def _positions(given: Mapping[str, Any], spec: ModelSpec) -> list[str]:
    has = spec.config.position_encoding
    wrong = []
    kind = given.get("embed_type")
    absolute = tuple(name for name in has if name in _ABSOLUTE)
    if isinstance(kind, str) and kind in _POSITIONS:
        allowed = _POSITIONS[kind]
        if absolute if not allowed else not set(absolute) & set(allowed):
            wrong.append(f"word_embed_type {kind} (there {' and '.join(has) or 'no positions'})")
    relative = given.get("ra_type") or ("rpr" if _reaches(given.get("rpr_k")) else None)
    if relative is not None and _RELATIVE.get(relative) not in has:
        wrong.append(f"relative positions {relative} (there {' and '.join(has) or 'none'})")
    elif relative == "rpr" and _reaches(given["rpr_k"]) != _reaches(spec.config.rpr_k):
        wrong.append(f"rpr_k {given['rpr_k']} (there {spec.config.rpr_k})")
    return wrong


def _reaches(value: Any) -> list[Any]:
    """`rpr_k` as a list, a single number where all layers have one; [] for none."""
    found = list(value) if isinstance(value, list | tuple) else [value]
    found = found[:1] if len(set(map(str, found))) == 1 else found
    return [] if found in ([None], [0], []) else found


def _family(activation: str) -> str:
    """The name without the way in which it is computed."""
    return activation.replace("_", "-").split("-")[0]
