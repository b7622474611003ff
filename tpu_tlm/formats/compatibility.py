"""Options that decide what a model computes, and in which of them two models differ."""

from __future__ import annotations

from typing import Any, NamedTuple

from tpu_tlm.config import ModelConfig
from tpu_tlm.config.objectives import DUAL_ENCODER
from tpu_tlm.config.options import options_in
from tpu_tlm.errors import UsageError
from tpu_tlm.models.positions.registry import idle_options
from tpu_tlm.models.spec import ModelSpec

_MODEL = options_in(ModelConfig)
# Options of what follows a dual encoder's encoder, and of other models that predict no tokens.
DUAL = tuple(
    name
    for name, option in _MODEL.items()
    if option.declared.shapes_model and option.declared.only_with == DUAL_ENCODER
)
_OTHERS = {*DUAL, "num_decoder_layers", "target_embeddings"}


class Difference(NamedTuple):
    """One option that differs: its name and both values, None where another option disables it."""

    name: str
    left: Any
    right: Any


def structure(spec: ModelSpec) -> dict[str, Any]:
    """The options that decide the numbers; those that another one makes idle are left out."""
    config = spec.config
    values = {
        name: getattr(config, name)
        for name, option in _MODEL.items()
        if option.declared.shapes_model and name not in _OTHERS
    }
    values["d_k"] = config.d_k or config.d_model // config.num_heads
    values["embedding_size"] = config.embedding_size or config.d_model
    values["rpr_k"] = [config.rpr_k_of(i) for i in range(config.num_layers)]
    values["max_positions"] = config.max_positions or max(spec.seq_length, spec.seq_length_y or 0)
    if spec.kind == "seq2seq":
        values["num_decoder_layers"] = config.num_decoder_layers or config.num_layers
        values["target_embeddings"] = config.target_embeddings
    if spec.kind == "dual":
        values |= {name: getattr(config, name) for name in DUAL}
    idle = [name for name in idle_options(config) if name != "rpr_k" or not config.windowed_ra]
    if not config.local_window:
        idle.append("global_every")
    if not config.local_window and not config.windowed_ra and spec.kind != "dual":
        idle.append("compat")
    return {name: value for name, value in values.items() if name not in idle}


def differences(left: ModelSpec, right: ModelSpec) -> list[Difference]:
    """The structural options in which two models differ."""
    ours, theirs = structure(left), structure(right)
    return [
        Difference(n, ours.get(n), theirs.get(n))
        for n in {**ours, **theirs}
        if ours.get(n) != theirs.get(n)
    ]


def as_flag(name: str, value: Any) -> str:
    """An option as it is written on the command line."""
    if isinstance(value, list):
        value = value[0] if len(set(value)) == 1 else " ".join(map(str, value)) or "none"
    return f"--{name} {str(value).lower() if isinstance(value, bool | None) else value}"


def flags(config: ModelConfig) -> str:
    """The flags that make this configuration out of the defaults."""
    default = ModelConfig()
    return " ".join(
        as_flag(n, getattr(config, n)) for n in _MODEL if getattr(config, n) != getattr(default, n)
    )


def model_options(spec: ModelSpec) -> dict[str, Any]:
    """Options of a training run that make a model of this structure, by name.

    What only acts in training (dropout, initial values) is left at its default. Raises `UsageError`
    for a kind of model that needs further options.
    """
    objectives = {"mlm": "mlm", "clm": "clm"}
    if spec.kind not in objectives:
        raise UsageError(f"a model of kind {spec.kind!r} is not described by its options alone")
    default = ModelConfig()
    values = {
        name: getattr(spec.config, name)
        for name, option in _MODEL.items()
        if option.declared.shapes_model
    }
    changed = {name: value for name, value in values.items() if value != getattr(default, name)}
    return {"objective": objectives[spec.kind], **changed}
