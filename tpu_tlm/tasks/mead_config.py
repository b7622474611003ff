"""A MEAD user's YAML (mead-train) as options of fine-tuning."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.config import strict
from tpu_tlm.errors import UsageError

_TASKS = {"classify": "classify", "tagger": "tag", "tag": "tag"}
_MODELS = {
    "fine-tune": "classify",
    "fine-tune-paired": "pair",
    "fine-tune-dual": "pair",
    "default": None,
    "transformer": None,
}
_EMBEDDINGS = ("tlm-words-embed", "tlm-words-embed-pooled", "tlm-words-embed-pooled2d")
_SCHEDULES = {
    "warmup_linear": "linear",
    "linear": "linear",
    "cosine": "cosine",
    "warmup_cosine": "cosine",
    "default": "constant",
    "constant": "constant",
    "warmup": "rsqrt",
    "rsqrt": "rsqrt",
}
_METRICS = {"acc": "accuracy", "f1": "macro_f1", "macro_f1": "macro_f1", "loss": "loss"}
# MEAD's option of an embedding -> hyper-parameter of the NPZ.
_ARCHITECTURE = {
    "dsz": "d_model",
    "d_model": "d_model",
    "d_ff": "d_ff",
    "layers": "layers",
    "num_heads": "num_heads",
    "d_k": "d_k",
    "rpr_k": "rpr_k",
    "rpr_value_on": "rpr_value_on",
    "windowed_ra": "windowed_ra",
    "ra_type": "ra_type",
    "transformer_type": "transformer_type",
    "layer_norms_after": "layer_norms_after",
    "layer_norm_eps": "layer_norm_eps",
    "activation": "activation",
    "mxlen": "mxlen",
    "word_embed_type": "embed_type",
    "reduction": "embeddings_reduction",
    "embeddings_reduction": "embeddings_reduction",
    "token_type_vsz": "token_type_vsz",
}


@dataclass
class MeadOptions:
    """Options by our names, MEAD's hyper-parameters of the model, and lines for the user."""

    values: dict[str, Any] = field(default_factory=dict)
    architecture: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def is_mead(values: Any) -> bool:
    """Whether a YAML mapping is a configuration of mead-train rather than of options of ours."""
    return isinstance(values, Mapping) and (
        isinstance(values.get("features"), list)
        or isinstance(values.get("model"), Mapping)
        or isinstance(values.get("train"), Mapping)
    )


def is_mead_file(path: str) -> bool:
    """Whether a file is a configuration of mead-train; what cannot be read is none."""
    try:
        return is_mead(_yaml(path))
    except UsageError:
        return False


def _yaml(path: str) -> Any:
    return strict.read_yaml(filesystem.read_bytes(path), path)


def read_index(path: str) -> dict[str, str]:
    """Label -> file of an embeddings index, MEAD's YAML or JSON: a list of `label` and `file`."""
    entries = _yaml(path)
    if not isinstance(entries, list):
        raise UsageError(f"{path}: an embeddings index is a list of entries with label and file")
    found: dict[str, str] = {}
    for number, entry in enumerate(entries, 1):
        file = (
            None if not isinstance(entry, Mapping) else entry.get("file", entry.get("vocab_file"))
        )
        if file is None or "label" not in entry:
            raise UsageError(f"{path}: entry {number} has no label, or no file")
        file = str(file)
        if "://" not in file and not file.startswith("/"):
            file = posixpath.join(posixpath.dirname(path), file)
        found[str(entry["label"])] = file
    return found


def _resolve(label: str, index: Mapping[str, str], where: str) -> str:
    if label in index:
        return index[label]
    if filesystem.exists(label):
        return label
    known = f" (it has {', '.join(index)})" if index else ""
    raise UsageError(
        f"{where}: {label!r} is neither in --embeddings_index{known} nor a path; give an index "
        "that has it"
    )


def read_mead(path: str, index_path: str | None) -> MeadOptions:
    """The options that a MEAD configuration stands for.

    What has no meaning here is named in `notes`. Raises `UsageError` for labels that cannot be
    resolved, and for models and embeddings that are no fine-tuning of a Transformer.
    """
    config = _yaml(path)
    if not is_mead(config):
        raise UsageError(f"{path}: is no configuration of mead-train")
    index = read_index(index_path) if index_path else {}
    found = MeadOptions()
    left = dict(config)
    _features(left.pop("features", []), index, path, found)
    _model(left.pop("model", {}), path, found)
    _train(left.pop("train", {}), path, found)
    _top(left, path, found)
    return found


def _note(found: MeadOptions, where: str, name: str, value: Any, why: str = "") -> None:
    reason = why or "has no meaning here"
    found.notes.append(f"{where}: {name} ({json.dumps(value, default=str)}) {reason}")


def _features(features: Any, index: Mapping[str, str], path: str, found: MeadOptions) -> None:
    if not isinstance(features, list) or not features:
        raise UsageError(f"{path}: features: needs one feature with embeddings")
    feature, *others = features
    for other in others:
        _note(found, path, "features", other.get("name"), "is left out: a model has one text input")
    left = dict(feature)
    left.pop("name", None)
    vectorizer = dict(left.pop("vectorizer", None) or {})
    embeddings = dict(left.pop("embeddings", None) or {})
    label = vectorizer.pop("label", None)
    if label is not None and (label in index or filesystem.exists(str(label))):
        found.values["tokenizer"] = _resolve(str(label), index, f"{path}: vectorizer.label")
    elif label is not None:
        _note(
            found,
            path,
            "vectorizer.label",
            label,
            "is no path: the model's own tokenizer is used, or give --tokenizer",
        )
    if "mxlen" in vectorizer:
        found.values["max_length"] = vectorizer.pop("mxlen")
    for name, value in vectorizer.items():
        _note(found, path, f"vectorizer.{name}", value)
    kind = embeddings.pop("type", "tlm-words-embed-pooled")
    if kind not in _EMBEDDINGS:
        raise UsageError(f"{path}: embeddings.type {kind!r}: known are {', '.join(_EMBEDDINGS)}")
    if kind == "tlm-words-embed-pooled2d":
        _note(found, path, "embeddings.type", kind, "is read as tlm-words-embed-pooled")
    if "label" not in embeddings:
        raise UsageError(f"{path}: embeddings.label is missing: the model to start from")
    found.values["model"] = _resolve(
        str(embeddings.pop("label")), index, f"{path}: embeddings.label"
    )
    if "pooling" in embeddings or kind != "tlm-words-embed":
        found.values["pooling"] = embeddings.pop("pooling", "cls")
    for name in ("finetune", "dropout"):
        if name in embeddings:
            found.values[name] = embeddings.pop(name)
    embeddings.setdefault("word_embed_type", "learned-positional")
    causal = embeddings.pop("mlm", True) is False
    for name in list(embeddings):
        if name in _ARCHITECTURE:
            found.architecture[_ARCHITECTURE[name]] = embeddings.pop(name)
    if found.architecture.get("token_type_vsz"):
        found.architecture["features"] = ["x", "tt"]
    sizes = {"d_model": 768, "d_ff": 3072, "layers": 12, "num_heads": 12}
    config = {**sizes, **found.architecture, **({"causal": True} if causal else {})}
    found.values["mead_config"] = json.dumps(
        {"kind": "mlm" if causal else "embed", "config": config}
    )
    for name, value in embeddings.items():
        _note(found, path, f"embeddings.{name}", value)
    for name, value in left.items():
        _note(found, path, f"features.{name}", value)


def _model(model: Any, path: str, found: MeadOptions) -> None:
    left = dict(model or {})
    kind = left.pop("model_type", left.pop("type", "fine-tune"))
    if kind not in _MODELS:
        raise UsageError(
            f"{path}: model.model_type {kind!r} is not a fine-tuning model; known are "
            f"{', '.join(_MODELS)}"
        )
    if _MODELS[kind] is not None:
        found.values["task"] = _MODELS[kind]
    if kind == "fine-tune-dual":
        found.values["pair_encoder"] = "shared"
        _note(found, path, "model_type", kind, "concatenates u, v, |u-v|; here also u*v")
    if hidden := left.pop("hsz", None):
        found.values["hidden"] = hidden if isinstance(hidden, list) else [hidden]
    if "dropout" in left:
        found.values["head_dropout"] = left.pop("dropout")
    for name, value in left.items():
        _note(found, path, f"model.{name}", value)


def _train(train: Any, path: str, found: MeadOptions) -> None:
    left = dict(train or {})
    renamed = {
        "epochs": "epochs",
        "eta": "lr",
        "lr": "lr",
        "batchsz": "batch_size",
        "weight_decay": "weight_decay",
        "clip": "clip",
        "patience": "patience",
        "beta2": "beta2",
        "epsilon": "eps",
        "grad_accum": "grad_accum",
    }
    for name, ours in renamed.items():
        if name in left:
            found.values[ours] = left.pop(name)
    if "optim" in left:
        optim = str(left.pop("optim"))
        if optim in ("adamw", "adam", "sgd"):
            found.values["optimizer"] = optim
        else:
            _note(found, path, "train.optim", optim, "is not an optimizer here: adamw is used")
    for name in ("lr_scheduler_type", "decay_type"):
        if name in left:
            value = left.pop(name)
            parts = value if isinstance(value, list) else [value]
            known = [_SCHEDULES[p] for p in parts if p in _SCHEDULES]
            if known:
                found.values["lr_schedule"] = known[-1]
            else:
                _note(found, path, f"train.{name}", value)
    if "early_stopping_metric" in left:
        metric = left.pop("early_stopping_metric")
        if metric in _METRICS:
            if not (metric == "f1" and found.values.get("task") == "tag"):
                found.values["metric"] = _METRICS[metric]
        else:
            _note(found, path, "train.early_stopping_metric", metric)
    for name, value in left.items():
        _note(found, path, f"train.{name}", value)


def _top(left: dict[str, Any], path: str, found: MeadOptions) -> None:
    task = left.pop("task", "classify")
    if task not in _TASKS:
        raise UsageError(f"{path}: task {task!r}: known are {', '.join(_TASKS)}")
    if _TASKS[task] == "tag":
        found.values["task"] = "tag"
        found.values.pop("pooling", None)
        if found.values.get("metric") == "macro_f1":
            found.values.pop("metric")
    found.values.setdefault("task", _TASKS[task])
    for name, ours in (("batchsz", "batch_size"), ("basedir", "run_dir")):
        if name in left:
            found.values.setdefault(ours, left.pop(name))
    if "dataset" in left:
        _note(
            found,
            path,
            "dataset",
            left.pop("dataset"),
            "is not looked up: give --train, --valid and --test",
        )
    if left.get("backend") in ("tensorflow", "tf", "pytorch"):
        left.pop("backend")
    for name, value in left.items():
        _note(found, path, name, value)


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """The options as a command line."""
    argv: list[str] = []
    for name, value in values.items():
        argv.append(f"--{name}")
        parts = value if isinstance(value, list) else [value]
        argv += [str(p).lower() if isinstance(p, bool) else str(p) for p in parts]
    return argv
