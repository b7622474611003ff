"""What a report says of a run, read from its run directory and its datasets."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.checkpoints.manifest import MANIFEST
from tpu_tlm.checkpoints.run_dir import RunDir
from tpu_tlm.config import Config, cli
from tpu_tlm.config.options import options_of
from tpu_tlm.config.strict import mapping, read_yaml
from tpu_tlm.data.dataset.metadata import read_metadata
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.filesystem.sealed import check_sealed
from tpu_tlm.training.metrics import read_metrics
from tpu_tlm.training.report.history import History
from tpu_tlm.training.samples import NAME as SAMPLES
from tpu_tlm.training.samples import read_samples

_CHECKPOINT = re.compile(r"step-(\d{8,18})(?:\.\d+)?")


@dataclass(frozen=True)
class SavedStep:
    """One complete checkpoint: steps made, directory, bytes of its files."""

    step: int
    path: str
    size: int


@dataclass(frozen=True)
class DataSummary:
    """One dataset of a run.

    role: "training" or "validation"; facts: name -> value, as text; problem: why there are none.
    """

    role: str
    path: str
    facts: Mapping[str, str]
    problem: str = ""


@dataclass
class RunData:
    """Everything that a report says of one run. options: name -> value of config.yaml."""

    path: str
    options: Mapping[str, Any]
    history: History = field(default_factory=History)
    data: list[DataSummary] = field(default_factory=list)
    checkpoints: list[SavedStep] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    name: str = ""


def collect(path: str) -> RunData:
    """Read one run directory, local or in object storage.

    Raises `UsageError` where it is no run directory of pre-training or its config.yaml is damaged,
    `TlmError` where a file cannot be read. Datasets that have moved are named in the report.
    """
    directory = RunDir(path)
    options = read_options(directory)
    run = RunData(directory.path, options)
    with filesystem.naming(directory.metrics):
        records = read_metrics(directory.metrics)
    for record in records:
        run.history.add(record)
    run.data = data_of(options)
    run.checkpoints = checkpoints_in(directory.checkpoints)
    run.samples = read_samples(posixpath.join(directory.path, SAMPLES))
    return run


def read_options(directory: RunDir) -> dict[str, Any]:
    """Every option in config.yaml, under its present name; keys of no option as they are."""
    where = directory.config
    if not filesystem.exists(where):
        raise UsageError(f"{directory.path} is not a run directory: it has no config.yaml")
    raw = filesystem.read_bytes(where)
    check_sealed(where, raw, "restore it")
    values = mapping(read_yaml(raw, where), where)
    if "task" in values and "train_dir" not in values:
        raise UsageError(
            f"{directory.path} is a fine-tuning run, which has a report of its own:"
            f" {directory.path}/report.html"
        )
    groups = Config.groups()
    table = options_of(groups)
    # Checked, because YAML takes some numbers for text: 1e-12.
    known = {
        name: table[name].checked(value, f"{where}: {name}")
        for name, value in cli.canonical_values(values, groups, where).items()
    }
    spellings = {name for group in groups for name in group.old_options}
    for name, option in table.items():
        spellings |= {name, *option.declared.aliases, *option.declared.shorthands}
    return {**known, **{key: value for key, value in values.items() if key not in spellings}}


def data_of(options: Mapping[str, Any]) -> list[DataSummary]:
    """Summaries of the training and the validation data that the options name."""
    found = []
    for role, key in (("training", "train_dir"), ("validation", "valid_dir")):
        path = options.get(key)
        if isinstance(path, str) and path:
            found.append(_summary(role, path))
    return found


def _summary(role: str, path: str) -> DataSummary:
    try:
        metadata = read_metadata(path)
    except (TlmError, OSError, ValueError) as error:
        return DataSummary(role, path, {}, " ".join(str(error).split()))
    if metadata is None:
        return DataSummary(role, path, {}, "there is no md.yml any more")
    return DataSummary(role, path, _facts(metadata))


def _facts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The figures of a md.yml. Those of MEAD's own datasets have only `num_samples`."""
    samples, length = metadata.get("num_samples"), metadata.get("nctx")
    shards = metadata.get("shards")
    shards = shards if isinstance(shards, list) else []
    tokenizer = metadata.get("tokenizer")
    tokenizer = tokenizer if isinstance(tokenizer, dict) else {}
    facts: dict[str, Any] = {"examples": samples, "tokens per example": length}
    if isinstance(samples, int) and isinstance(length, int):
        facts["tokens, padding included"] = samples * length
    facts |= {
        "tokens of the second text": metadata.get("nctx_y"),
        "shards": len(shards) or None,
        "bytes": _bytes(shards) or None,
        "tokenizer": tokenizer.get("kind"),
        "vocabulary": tokenizer.get("vocab_size"),
        "packing": metadata.get("pack"),
        "prefix": metadata.get("prefix"),
        "suffix": metadata.get("suffix"),
        "seed": metadata.get("seed"),
    }
    return {
        name: f"{value:,}" if type(value) is int and name != "seed" else str(value)
        for name, value in facts.items()
        if value is not None
    }


def _bytes(shards: list[Any]) -> int:
    sizes = [shard.get("bytes") for shard in shards if isinstance(shard, dict)]
    return sum(size for size in sizes if isinstance(size, int))


def checkpoints_in(directory: str) -> list[SavedStep]:
    """The complete checkpoints of a run by step."""
    names = filesystem.list_names(directory)
    found = [saved_step(posixpath.join(directory, n)) for n in names if _CHECKPOINT.fullmatch(n)]
    return sorted((s for s in found if s is not None), key=lambda saved: (saved.step, saved.path))


def saved_step(path: str) -> SavedStep | None:
    """One checkpoint from the listing of its directory; None where it is not complete."""
    match = _CHECKPOINT.fullmatch(posixpath.basename(path))
    sizes = filesystem.file_sizes(path)
    if match is None or MANIFEST not in sizes:
        return None
    return SavedStep(int(match[1]), path, sum(size or 0 for size in sizes.values()))
