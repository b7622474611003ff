"""Reading and writing a model in whatever format a path holds or asks for."""

from __future__ import annotations

import json
import posixpath
from typing import Any

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats import detect
from tpu_tlm.formats.huggingface.read import read_hf
from tpu_tlm.formats.huggingface.write import hf_files
from tpu_tlm.formats.mead.npz import Describe, npz_bytes, read_saved_npz
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.formats.tensorflow.bert_checkpoint import read_bert, write_bert
from tpu_tlm.formats.tensorflow.saved_model_read import read_saved_model

# What a directory that `write_model` made says of its making.
RECORD = "conversion.json"


def read_model(path: str, describe: Describe | None = None) -> PretrainedModel:
    """The model at a path, of any format but a run directory; `describe` gives the spec of an NPZ file of MEAD's.

    Raises `UsageError` when there is none or it is of a kind that is not covered, `TlmError` when it is damaged.
    """
    kind = detect.detect(path)
    if kind == detect.NPZ:
        return read_saved_npz(path, describe)
    if kind == detect.HF:
        return read_hf(path)
    if kind == detect.BERT:
        return read_bert(path)
    if kind == detect.SAVED_MODEL:
        return read_saved_model(path)
    raise UsageError(f"{path}: is a run directory")


def _origin(saved: PretrainedModel) -> dict[str, Any]:
    return {"source": saved.source, "source_files": saved.hashes, "unused": list(saved.unused)}


def write_model(
    saved: PretrainedModel,
    path: str,
    target: str,
    *,
    family: str | None = None,
    length: int | None = None,
    overwrite: bool = False,
) -> tuple[dict[str, str], list[str]]:
    """Write a model as `target` (one of `detect.TARGETS`); gives SHA-256 by file name, and notes for the user.

    `family`: of HuggingFace's models, where the nearest one is not wanted; `length`: tokens of a served text. Raises `UsageError` when
    the format has no place for the model, or the directory is not empty and `overwrite` is false.
    """
    if target == detect.NPZ:
        data = npz_bytes(saved, _origin(saved))
        filesystem.write_bytes(path, data)
        return {posixpath.basename(path): filesystem.sha256(data)}, []
    path = path.rstrip("/")
    if filesystem.exists(path) and not filesystem.is_directory(path):
        raise UsageError(f"{path}: is a file; --to {target} writes a directory")
    if not overwrite and filesystem.is_directory(path) and filesystem.list_names(path):
        raise UsageError(f"{path}: is not empty; choose another directory, or give --overwrite")
    if target == detect.HF:
        found, notes = hf_files(saved, family)
        filesystem.make_directory(path)
    else:
        filesystem.make_directory(path)
        found, notes = (
            write_bert(saved, path)
            if target == detect.BERT
            else _write_saved_model(saved, path, length)
        )
    for name, data in found.items():
        filesystem.make_directory(posixpath.dirname(posixpath.join(path, name)))
        filesystem.write_bytes(posixpath.join(path, name), data)
    hashes = {
        name: filesystem.sha256(filesystem.read_bytes(posixpath.join(path, name)))
        for name in _all_files(path)
        if name != RECORD
    }
    record = {**_origin(saved), "files": hashes, "notes": notes}
    filesystem.write_bytes(
        posixpath.join(path, RECORD), (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()
    )
    return hashes, notes


def _write_saved_model(
    saved: PretrainedModel, path: str, length: int | None
) -> tuple[dict[str, bytes], list[str]]:
    # Only here is tensorflow-text needed, and only for WordPiece.
    from tpu_tlm.formats.tensorflow.saved_model_write import write_saved_model

    return write_saved_model(saved, path, length)


def _all_files(path: str, inside: str = "") -> list[str]:
    found: list[str] = []
    for name in filesystem.list_names(posixpath.join(path, inside)):
        below = posixpath.join(inside, name)
        found += (
            _all_files(path, below)
            if filesystem.is_directory(posixpath.join(path, below))
            else [below]
        )
    return found


def check_same(saved: PretrainedModel, written: PretrainedModel) -> int:
    """Compare a model with what was read back; gives the number of arrays. Raises `TlmError` naming one that is not the same."""
    if written.spec != saved.spec:
        raise TlmError(
            f"{written.source}: reading it back gives another configuration: {written.spec} for {saved.spec}"
        )
    for path, value in saved.values.items():
        if not np.array_equal(written.values[path], value):
            raise TlmError(f"{written.source}: reading it back gives other values of {path!r}")
    return len(saved.values)
