"""A trained model as it lies on disk: a run directory or an NPZ file -> values, spec and tokenizer."""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass

import keras
import numpy as np

from tpu_tlm.data import files
from tpu_tlm.data.tokenizers import Tokenizer, load_tokenizer
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.mead_npz import TOKENIZER_KEY, from_mead, read_npz, spec_of
from tpu_tlm.models.build import build_model
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.models.variables import named_variables
from tpu_tlm.training.checkpoints import Checkpoints, Found

# Names inside a run directory.
CHECKPOINTS, TOKENIZER, NPZ = "checkpoints", "tokenizer", "npz"


@dataclass(frozen=True)
class Saved:
    """A trained model. `source`: the checkpoint or file it was read from; `fingerprint`: of the tokenizer it was trained with."""

    values: dict[str, np.ndarray]
    spec: ModelSpec
    source: str
    fingerprint: str | None
    tokenizer_dir: str | None

    def model(self, *, precision: str = "float32") -> keras.Model:
        """The Keras model with these values. Raises `TlmError` when they do not fit the spec."""
        model = build_model(self.spec, precision=precision)
        assign(model, self.values, self.source)
        return model

    def tokenizer(self, directory: str | None = None) -> Tokenizer:
        """The tokenizer in `directory`, or the one beside the model. Raises `UsageError` when there is none or it is another one."""
        if directory is None and self.tokenizer_dir is None:
            raise UsageError(f"{self.source}: no tokenizer lies beside it; give its directory with --tokenizer")
        tokenizer = load_tokenizer(directory or self.tokenizer_dir or "")
        if self.fingerprint and tokenizer.fingerprint() != self.fingerprint:
            raise UsageError(f"{directory or self.tokenizer_dir}: is not the tokenizer that {self.source} was trained with")
        if len(tokenizer.tokens) != self.spec.vocab_size:
            raise UsageError(f"{directory}: has {len(tokenizer.tokens)} tokens, {self.source} was trained with {self.spec.vocab_size}")
        return tokenizer


def assign(model: keras.Model, values: dict[str, np.ndarray], source: str) -> None:
    """Give a model these values by path. Raises `TlmError` naming a variable that is missing, is left over or has another shape."""
    variables = named_variables(model)
    if missing := sorted(set(variables) ^ set(values)):
        raise TlmError(f"{source}: variable {missing[0]!r} is not in both the file and the model")
    for path, variable in variables.items():
        if tuple(values[path].shape) != tuple(variable.shape):
            raise TlmError(f"{source}: {path!r} has shape {list(values[path].shape)}, the model needs {list(variable.shape)}")
        variable.assign(values[path])


def model_values(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The model's part of a checkpoint's arrays, by path."""
    return {name.removeprefix("model/"): array for name, array in arrays.items() if name.startswith("model/")}


def from_checkpoint(found: Found, run_dir: str) -> Saved:
    """The model in a checkpoint of a run."""
    spec = ModelSpec.from_json(json.dumps(found.state["spec"]), found.path)
    return Saved(model_values(found.load()), spec, found.path, found.state.get("tokenizer"), posixpath.join(run_dir, TOKENIZER))


def load_saved(path: str, step: int | None = None) -> Saved:
    """The model at `path`, a run directory (its newest good checkpoint, or that of `step`) or an NPZ file of ours.

    Raises `UsageError` when there is none, `TlmError` when it is damaged or cannot be used without MEAD's hyper-parameters.
    """
    if files.is_directory(path):
        checkpoints = Checkpoints(posixpath.join(path, CHECKPOINTS))
        found = checkpoints.at(step) if step is not None else checkpoints.newest()
        if found is None:
            reasons = "".join(f"; {s.path}: {s.reason}" for s in checkpoints.skipped)
            raise UsageError(f"{path}: holds no checkpoint that can be used{reasons}")
        return from_checkpoint(found, path)
    if step is not None:
        raise UsageError(f"--step: {path} is one model, only a run directory has several")
    arrays = read_npz(files.read_bytes(path), path)
    spec = spec_of(arrays, path)
    if spec is None:
        raise UsageError(f"{path}: holds no configuration (MEAD writes none): it cannot be read without its hyper-parameters")
    fingerprint = arrays[TOKENIZER_KEY].tobytes().decode() if TOKENIZER_KEY in arrays else None
    beside = posixpath.join(posixpath.dirname(posixpath.dirname(path)), TOKENIZER)
    return Saved(from_mead(arrays, spec, path), spec, path, fingerprint, beside if files.is_directory(beside) else None)
