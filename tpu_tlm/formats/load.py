"""A trained model as it lies on disk, of any format: a run directory here, the others by the formats."""

from __future__ import annotations

import json
import posixpath

import numpy as np

from tpu_tlm.checkpoints.manager import Checkpoints, LoadedCheckpoint
from tpu_tlm.errors import UsageError
from tpu_tlm.formats import detect
from tpu_tlm.formats.mead.npz import Describe
from tpu_tlm.formats.pretrained import PretrainedModel, assign
from tpu_tlm.formats.registry import read_model
from tpu_tlm.models.spec import ModelSpec

__all__ = [
    "CHECKPOINTS",
    "NPZ",
    "TOKENIZER",
    "PretrainedModel",
    "assign",
    "from_checkpoint",
    "load",
    "model_values",
]

# Names inside a run directory.
CHECKPOINTS, TOKENIZER, NPZ = "checkpoints", "tokenizer", "npz"


def model_values(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The model's part of a checkpoint's arrays, by path."""
    return {
        name.removeprefix("model/"): array
        for name, array in arrays.items()
        if name.startswith("model/")
    }


def from_checkpoint(found: LoadedCheckpoint, run_dir: str) -> PretrainedModel:
    """The model in a checkpoint of a run."""
    spec = ModelSpec.from_json(json.dumps(found.state["spec"]), found.path)
    tokenizer = posixpath.join(run_dir, TOKENIZER)
    return PretrainedModel(
        model_values(found.load()),
        spec,
        found.path,
        found.state.get("tokenizer"),
        tokenizer,
        hashes=found.hashes,
    )


def load(path: str, step: int | None = None, describe: Describe | None = None) -> PretrainedModel:
    """The model at `path`: a run directory (its newest good checkpoint, or that of `step`), or anything that `formats` reads.

    `describe`: gives the spec of an NPZ file of MEAD's. Raises `UsageError` when there is none, `TlmError` when it is damaged or cannot be
    used without MEAD's hyper-parameters.
    """
    if detect.detect(path) == detect.RUN:
        checkpoints = Checkpoints(posixpath.join(path, CHECKPOINTS))
        found = checkpoints.at(step) if step is not None else checkpoints.newest()
        if found is None:
            reasons = "".join(f"; {s.path}: {s.reason}" for s in checkpoints.skipped)
            raise UsageError(f"{path}: holds no checkpoint that can be used{reasons}")
        return from_checkpoint(found, path)
    if step is not None:
        raise UsageError(f"--step: {path} is one model, only a run directory has several")
    return read_model(path, describe)
