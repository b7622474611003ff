"""A MEAD user's YAML (mead-train) as options of fine-tuning."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.config import strict
from tpu_tlm.errors import UsageError
from tpu_tlm.tasks.mead_block import WHY, Block, MeadOptions
from tpu_tlm.tasks.mead_index import read_index, resolved

_TASKS = {"classify": "classify", "tagger": "tag", "tag": "tag"}
_FINE_TUNE = {"fine-tune": "classify", "fine-tune-paired": "pair", "fine-tune-dual": "pair"}
# What models that are more than an output layer lose here, by task.
_LOST = {
    "default": {"classify": "convolutions over the words", "tag": "a bidirectional LSTM"},
    "transformer": {"classify": "a Transformer", "tag": "a Transformer"},
}
_POOLED = ("tlm-words-embed-pooled", "tlm-words-embed-pooled2d")
_ELMO = ("elmo-embed", "elmo-pooled")
_EMBEDDINGS = ("tlm-words-embed", *_POOLED, *_ELMO)
_SCALED = "the scores of MEAD's heads are not divided by a root"
# MEAD's pooling -> (ours, what is otherwise there).
_POOLING = {
    "cls": ("cls", ""),
    "mean": ("mean", ""),
    "max": ("max", ""),
    "sqrt_length": ("sqrt", "MEAD multiplies the sum by the root of the length"),
    "2ha": ("2ha", _SCALED),
    "2ha_mean": ("2ha", f"MEAD takes the mean of the heads, and {_SCALED}"),
    "2ha_max": ("2ha", f"MEAD takes the maximum of the heads, and {_SCALED}"),
    "sha": ("attention", "MEAD has one head of queries and keys"),
    "sha_mean": ("attention", "MEAD has one head of queries and keys, of which it takes the mean"),
    "sha_max": (
        "attention",
        "MEAD has one head of queries and keys, of which it takes the maximum",
    ),
}
_ELMO_POOLING = {"mean": ("mean", ""), "max": ("max", "")}
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
_OPTIMIZERS = {name: name for name in ("adamw", "adam", "sgd")}
# Options of the embeddings that say how the NPZ is built, as `formats.mead` takes them.
_ARCHITECTURE = (
    *("dsz", "d_model", "d_ff", "layers", "num_heads", "d_k", "rpr_k", "rpr_value_on"),
    *("windowed_ra", "ra_type", "transformer_type", "layer_norms_after", "layer_norm_eps"),
    *("activation", "mxlen", "word_embed_type", "reduction", "embeddings_reduction"),
    *("token_type_vsz", "mlp", "nctx", "offset", "ffn_dropout", "mlm"),
)
_TRAIN = {
    "epochs": ("epochs", float),
    "eta": ("lr", float),
    "lr": ("lr", float),
    "batchsz": ("batch_size", int),
    "weight_decay": ("weight_decay", float),
    "clip": ("clip", float),
    "patience": ("patience", int),
    "beta2": ("beta2", float),
    "epsilon": ("eps", float),
    "grad_accum": ("grad_accum", int),
}


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


def read_mead(path: str, index_path: str | None) -> MeadOptions:
    """The options that a MEAD configuration stands for.

    What has no meaning here, or is not applied, is named in `notes`. Raises `UsageError` naming
    file and key for values of another kind, labels that cannot be resolved, and models and
    embeddings that are no fine-tuning of a Transformer.
    """
    config = _yaml(path)
    if not is_mead(config):
        raise UsageError(f"{path}: is no configuration of mead-train")
    index = read_index(index_path) if index_path else {}
    found = MeadOptions()
    top = Block(config, "", path, found)
    task = _TASKS[top.choice("task", _TASKS, "classify") or ""]
    _features(top, index, task, found)
    _model(top.block("model"), task, found)
    _train(top.block("train"), found)
    _top(top, found)
    if found.values["task"] == "tag" and found.values.get("metric") == "macro_f1":
        # MEAD's f1 of a tagger is that of entities, which is the default.
        found.values.pop("metric")
    return found


def _features(top: Block, index: Mapping[str, Any], task: str, found: MeadOptions) -> None:
    features = top.raw("features")
    if not isinstance(features, list) or not features:
        raise UsageError(f"{top.path}: features: needs a list of one feature with embeddings")
    for i, other in enumerate(features[1:], 1):
        name = other.get("name") if isinstance(other, Mapping) else other
        top.note(f"features[{i}]", name, "is left out: a model has one text input")
    feature = Block(features[0], "features[0]", top.path, found)
    feature.raw("name")
    vectorizer, embeddings = feature.block("vectorizer"), feature.block("embeddings")
    kind = embeddings.choice("type", _EMBEDDINGS, "tlm-words-embed-pooled")
    if kind == "tlm-words-embed-pooled2d":
        embeddings.note("type", kind, "is read as tlm-words-embed-pooled")
    label, file = embeddings.text("label"), embeddings.text("embed_file")
    if label is None and file is None:
        raise UsageError(f"{embeddings.where('label')} is missing: the model to start from")
    entry = resolved(label or file or "", index, embeddings.where("label"))
    if "file" not in entry:
        raise UsageError(f"{embeddings.where('label')}: {label!r} has no file in the index")
    found.values["model"] = entry["file"]
    _pooling(embeddings, kind or "", task, found)
    for name, taken in (
        ("finetune", embeddings.flag("finetune")),
        ("dropout", embeddings.number("dropout", float)),
    ):
        if taken is not None:
            found.values[name] = taken
    if kind not in _ELMO:
        _architecture(embeddings, entry, found)
    _vectorizer(vectorizer, embeddings, index, found)
    described: dict[str, Any] = {
        "kind": "embed",
        "config": found.architecture,
        "where": f"{posixpath.basename(top.path)}: {embeddings.name}",
    }
    if frame := {name: found.values.pop(name) for name in _FRAME if name in found.values}:
        described["frame"] = frame
    if kind not in _ELMO:
        found.values["mead_config"] = json.dumps(described)
    for block in (vectorizer, embeddings, feature):
        block.rest()


_FRAME = ("prefix", "suffix")


def _pooling(embeddings: Block, kind: str, task: str, found: MeadOptions) -> None:
    known = _ELMO_POOLING if kind in _ELMO else _POOLING
    default = {"elmo-embed": None, "tlm-words-embed": None, "elmo-pooled": "mean"}.get(kind, "cls")
    given = "pooling" in embeddings
    name = embeddings.choice("pooling", known, default)
    if name is None:
        return
    if task == "tag":
        if given or kind in (*_POOLED, "elmo-pooled"):
            embeddings.note("pooling", name, "is left out: a tagger has an output for every word")
        return
    found.values["pooling"], otherwise = known[name]
    if otherwise:
        ours = found.values["pooling"]
        embeddings.note("pooling", name, f"is --pooling {ours} here: {otherwise}")


def _architecture(embeddings: Block, entry: Mapping[str, Any], found: MeadOptions) -> None:
    """MEAD's hyper-parameters as they are given, for the reader of the NPZ to check."""
    if embeddings.left.get("embeddings_dropout") is not None:
        rate = embeddings.number("embeddings_dropout", float)
        if "dropout" not in found.values:
            found.architecture["embeddings_dropout"] = float(rate)
        elif float(rate) != float(found.values["dropout"]):
            embeddings.note(
                "embeddings_dropout", rate, "is not applied: dropout is that of the embeddings too"
            )
    for name in _ARCHITECTURE:
        if name in embeddings:
            found.architecture[name] = embeddings.raw(name)
    eps = found.architecture.get("layer_norm_eps")
    if isinstance(eps, str):
        embeddings.left["layer_norm_eps"] = eps
        found.architecture["layer_norm_eps"] = float(embeddings.number("layer_norm_eps", float))
    if "dsz" not in found.architecture and "d_model" not in found.architecture:
        if entry.get("dsz") is not None:
            found.architecture["dsz"] = strict.entry(
                entry, "dsz", int, f"--embeddings_index: {entry.get('label')}", minimum=1
            )


def _vectorizer(
    vectorizer: Block, embeddings: Block, index: Mapping[str, Any], found: MeadOptions
) -> None:
    """Tokenizer, longest text and the tokens around it."""
    label = vectorizer.text("label")
    entry: dict[str, Any] = {}
    if label is not None and (label in index or filesystem.exists(label)):
        entry = resolved(label, index, vectorizer.where("label"))
    elif label is not None and filesystem.is_directory(label):
        entry = {"file": label}
    inline = {n: vectorizer.text(n) for n in ("vocab_file", "model_file")}
    entry |= {name: value for name, value in inline.items() if value is not None}
    vocab = entry.get("vocab_file") or entry.get("file")
    if vocab is None and str(embeddings.left.get("vocab_file", "")).endswith(".txt"):
        vocab = embeddings.text("vocab_file")
    if vocab is not None:
        found.values["tokenizer"] = vocab
        if entry.get("model_file") is not None:
            found.values["codes"] = entry["model_file"]
    elif label is not None:
        vectorizer.note(
            "label", label, "is no path: the model's own tokenizer is used, or give --tokenizer"
        )
    if (transform := entry.get("transform_fn")) is not None:
        vectorizer.note("transform_fn", transform, WHY["transform_fn"])
    vectorizer.raw("type")  # the files show it
    length = vectorizer.number("mxlen", int)
    if length is not None and length > 0:  # -1: the longest text of the data
        found.values["max_length"] = length
    for name, key in zip(_FRAME, ("emit_begin_tok", "emit_end_tok"), strict=True):
        tokens = vectorizer.raw(key)
        tokens = [tokens] if isinstance(tokens, str) else tokens
        if tokens is None or tokens == []:
            continue
        if not isinstance(tokens, list) or len(tokens) != 1 or not isinstance(tokens[0], str):
            raise UsageError(f"{vectorizer.where(key)}: must be one token")
        found.values[name] = tokens[0]


def _model(block: Block, task: str, found: MeadOptions) -> None:
    if "model_type" not in block and "type" in block:
        block.left["model_type"] = block.raw("type")
    known = [*_FINE_TUNE, *_LOST, *(["pass"] if task == "tag" else [])]
    kind = block.choice("model_type", known, "pass" if task == "tag" else "fine-tune") or ""
    found.values["task"] = "tag" if task == "tag" else _FINE_TUNE.get(kind, task)
    if kind in _LOST:
        lost = _LOST[kind][task]
        block.note("model_type", kind, f"is a linear layer here: in MEAD it is on {lost}")
    if kind == "fine-tune-dual" and task != "tag":
        found.values["pair_encoder"] = "shared"
        block.note("model_type", kind, "concatenates u, v, |u-v|; here also u*v")
    elif kind in _FINE_TUNE and task == "tag":
        block.note("model_type", kind, "is read as pass: the task is a tagger")
    if kind in _FINE_TUNE and "hsz" in block:
        sizes = block.raw("hsz")
        block_sizes = sizes if isinstance(sizes, list) else [sizes]
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in block_sizes):
            raise UsageError(f"{block.where('hsz')}: must be whole numbers of units above zero")
        if block_sizes:
            found.values["hidden"] = block_sizes
    if (rate := block.number("dropout", float)) is not None:
        found.values["head_dropout"] = rate
    block.rest()


def _train(block: Block, found: MeadOptions) -> None:
    for name, (ours, kind) in _TRAIN.items():
        if (value := block.number(name, kind)) is not None:
            found.values[ours] = value
    if (optim := block.text("optim")) is not None:
        if optim in _OPTIMIZERS:
            found.values["optimizer"] = optim
        else:
            block.note("optim", optim, "is not an optimizer here: adamw is used")
    for name in ("lr_scheduler_type", "decay_type"):
        value = block.raw(name)
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, str | None) for part in parts):
            raise UsageError(f"{block.where(name)}: must be text, or a list of it")
        known = [_SCHEDULES[part] for part in parts if part in _SCHEDULES]
        if known:
            found.values["lr_schedule"] = known[-1]
        elif value is not None:
            block.note(name, value, "is not applied: --lr_schedule is linear")
    metric = block.text("early_stopping_metric")
    if metric in _METRICS:
        found.values["metric"] = _METRICS[metric]
    elif metric is not None:
        block.note("early_stopping_metric", metric, "is not applied: the task's own metric is used")
    block.rest()


def _top(top: Block, found: MeadOptions) -> None:
    if (size := top.number("batchsz", int)) is not None:
        found.values.setdefault("batch_size", size)
    if (directory := top.text("basedir")) is not None:
        found.values["run_dir"] = directory
    preproc = top.block("preproc")
    length = preproc.number("mxlen", int)
    if length is not None and length > 0:
        found.values.setdefault("max_length", length)
    preproc.rest()
    if top.left.get("backend") in ("tensorflow", "tf", "pytorch"):
        top.raw("backend")
    top.rest()


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """The options as a command line."""
    argv: list[str] = []
    for name, value in values.items():
        argv.append(f"--{name}")
        parts: Sequence[Any] = value if isinstance(value, list) else [value]
        argv += [str(p).lower() if isinstance(p, bool) else str(p) for p in parts]
    return argv
