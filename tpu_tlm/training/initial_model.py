"""The model that a run starts from (--init_from), and the options that are taken from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tpu_tlm.checkpoints.run_dir import RunDir
from tpu_tlm.config import Config
from tpu_tlm.config.options import options_of
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.compatibility import DUAL, differences, structure
from tpu_tlm.formats.load import load
from tpu_tlm.formats.mead.npz import described_by_options
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.spec import ModelSpec

# The objective that trains a kind of model, where none is given.
_OBJECTIVES = {"clm": "clm", "seq2seq": "seq2seq", "dual": "dual-encoder", "electra": "electra"}
# Kinds whose head predicts tokens.
_TOKEN_HEADS = ("mlm", "clm", "seq2seq")
_HEAD = ("mlm_head", "output_bias", "tie_weights")
# A model with other values of these can still start from it.
_FREE = (*_HEAD, "mask_pad", "segment_mask", "compat", "max_positions")


@dataclass(frozen=True)
class InitialModel:
    """What `--init_from` names.

    model: None where it is not needed (the run continues) or not described by its own file (MEAD's
    NPZ); taken: option -> value that was taken from it, in the order of the options.
    """

    path: str
    model: PretrainedModel | None
    taken: Mapping[str, Any]

    def load(self, spec: ModelSpec) -> PretrainedModel:
        """The model, for a run whose own model is that of `spec`."""
        if self.model is not None:
            return self.model
        describe = described_by_options(spec.config, spec.kind, spec.seq_length)
        return load(self.path, describe=describe)


def with_initial_model(config: Config) -> tuple[Config, InitialModel | None]:
    """The options with what `--init_from` decides and they do not say: objective, sizes, head.

    A run that has saved a checkpoint is continued: it has these options in its own file, and the
    other model is not read. Options of a preset give way, those that are given by flags, a file or
    keywords do not. Raises `UsageError` naming the options that contradict the model with both
    values.
    """
    path = config.run.init_from
    if not path:
        return config, None
    # A plan has no run directory.
    run = RunDir(config.run.run_dir) if config.run.run_dir else None
    if run is not None and run.exists() and run.saved():
        old = Config(*run.load(Config.groups())).as_dict()
        names = [*_shapes(), "objective", "sentinels"]
        return _taking(config, {name: old[name] for name in names}, path), None
    described: list[str] = []

    def describe(arrays: Mapping[str, np.ndarray], where: str) -> ModelSpec:
        described.append(where)
        return described_by_options(config.model)(arrays, where)

    saved = load(path, describe=describe)
    if described:
        return config, InitialModel(path, None, {})
    full = _taking(config, _options(saved), path)
    _check(full, saved)
    before, after = config.as_dict(), full.as_dict()
    taken = {name: after[name] for name in after if after[name] != before[name]}
    return full, InitialModel(path, saved, taken)


def _shapes() -> list[str]:
    table = options_of(Config.groups())
    return [name for name, option in table.items() if option.declared.shapes_model]


def _options(saved: PretrainedModel) -> dict[str, Any]:
    """Options that make a model like this one."""
    spec = saved.spec
    names = [n for n in structure(spec) if n not in _HEAD or spec.kind in _TOKEN_HEADS]
    values = {name: getattr(spec.config, name) for name in names}
    if values.get("max_positions", 0) is None:
        values["max_positions"] = structure(spec)["max_positions"]
    if spec.kind in _OBJECTIVES:
        values["objective"] = _OBJECTIVES[spec.kind]
    if spec.sentinels:
        values["sentinels"] = spec.sentinels
    return values


def _taking(config: Config, values: Mapping[str, Any], path: str) -> Config:
    """The options with those of `values` that are not given otherwise."""
    own = config.as_dict()
    # An objective that a preset chose is meant.
    kept = {*config.given, *(["objective"] if own["objective"] != "mlm" else [])}
    wanted = {n: v for n, v in values.items() if n not in kept and own[n] != v}
    objective = wanted.get("objective", own["objective"])
    if objective != "seq2seq":
        wanted = {n: v for n, v in wanted.items() if n not in ("sentinels", "num_decoder_layers")}
    if objective != "dual-encoder":
        dual = options_of(Config.groups())
        wanted = {
            n: v
            for n, v in wanted.items()
            if dual[n].declared.only_with.get("objective") != ("dual-encoder",)
        }
    return config.replace(**wanted) if wanted else config


def _check(config: Config, saved: PretrainedModel) -> None:
    """Raise `UsageError` where given options make another model than `saved`."""
    same_kind = _OBJECTIVES.get(saved.spec.kind, "mlm") == config.run.objective
    free = _FREE if same_kind else (*_FREE, *DUAL, "num_decoder_layers")
    own = replace(saved.spec, config=config.model)
    if wrong := [d for d in differences(saved.spec, own) if d.name not in free]:
        told = "; ".join(f"{d.name}: {_shown(d.left)} there, {_shown(d.right)} here" for d in wrong)
        raise UsageError(
            f"--init_from {config.run.init_from}: is another model than these options describe"
            f" ({told}); leave these options out to take the model's"
        )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, dict.fromkeys(value))) or "none"
    return str(value).lower() if isinstance(value, bool | None) else str(value)


def taken_line(initial: InitialModel) -> str:
    """A line that says which options were taken from the model."""
    told = " ".join(f"{name}={_shown(value)}" for name, value in initial.taken.items())
    return f"options taken from {initial.path}: {told}"
