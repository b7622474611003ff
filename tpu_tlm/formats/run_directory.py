"""A run directory as a format: the model in one of its checkpoints."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tpu_tlm.errors import UsageError
from tpu_tlm.formats.format import Contents, Format, ReadOptions

if TYPE_CHECKING:
    import numpy as np

    from tpu_tlm.checkpoints.manager import LoadedCheckpoint
    from tpu_tlm.formats.pretrained import PretrainedModel

# Names inside a run directory.
CHECKPOINTS, TOKENIZER, NPZ = "checkpoints", "tokenizer", "npz"


def _sniff(contents: Contents) -> bool:
    return CHECKPOINTS in contents.names


def model_values(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The model's variables among a checkpoint's arrays, by path; the others are not read."""
    return {
        name.removeprefix("model/"): arrays[name] for name in arrays if name.startswith("model/")
    }


def from_checkpoint(found: LoadedCheckpoint, run_dir: str) -> PretrainedModel:
    """The model in a checkpoint of a run."""
    from tpu_tlm.formats.huggingface.heads import without_misfit
    from tpu_tlm.formats.pretrained import PretrainedModel
    from tpu_tlm.formats.task_head import task_head
    from tpu_tlm.models.spec import ModelSpec

    arrays = found.load()
    saved = PretrainedModel(
        model_values(arrays),
        ModelSpec.from_json(json.dumps(found.state["spec"]), found.path),
        found.path,
        found.state.get("tokenizer"),
        posixpath.join(run_dir, TOKENIZER),
        hashes=found.hashes,
        **task_head(found.state.get("task"), arrays),
    )
    return saved if saved.classifier is None else without_misfit(saved)


def read_run(path: str, options: ReadOptions) -> PretrainedModel:
    """The model in the newest good checkpoint of a run, or that of `options.step`.

    Newer checkpoints that are damaged are in the result's `skipped`. Raises `UsageError` when
    none can be used, `TlmError` when the one of `options.step` is damaged.
    """
    from tpu_tlm.checkpoints.run_checkpoints import RunCheckpoints

    checkpoints = RunCheckpoints(posixpath.join(path, CHECKPOINTS))
    found = checkpoints.at(options.step) if options.step is not None else checkpoints.newest()
    skipped = tuple(f"{s.path}: {s.reason}" for s in checkpoints.skipped)
    if found is None:
        reasons = "".join(f"; {reason}" for reason in skipped)
        raise UsageError(f"{path}: has no checkpoint that can be used{reasons}")
    return from_checkpoint(found, path).replaced(skipped=skipped)


FORMAT = Format("run", "a run directory", _sniff, read_run)
