"""Writing a model in any format, and checking what was written."""

from __future__ import annotations

import contextlib
import json
import posixpath
from collections.abc import Iterator
from typing import Any

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.format import Format, WriteOptions
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.formats.registry import target_of

# The file in a written directory that says what it was made from.
RECORD = "conversion.json"


def _origin(saved: PretrainedModel) -> dict[str, Any]:
    return {"source": saved.source, "source_files": saved.hashes, "unused": list(saved.unused)}


def save(
    saved: PretrainedModel,
    path: str,
    target: Format | str | None = None,
    *,
    family: str | None = None,
    length: int | None = None,
    overwrite: bool = False,
) -> tuple[dict[str, str], list[str]]:
    """Write a model as `target`; gives SHA-256 by file name, and notes for the user.

    target: a format or its name (None: what the ending of `path` says); family: of HuggingFace's
    models, where the nearest one is not wanted; length: tokens of a served text. Raises
    `UsageError` when the format has no place for the model, or the directory is not empty and
    `overwrite` is false; nothing is written then.
    """
    if not isinstance(target, Format):
        target = target_of(path, target)
    assert target.write is not None
    options = WriteOptions(family, length, _origin(saved))
    for name in saved.carried:
        filesystem.plain_name(name, f"{saved.source}: a tokenizer file inside")
    if target.suffix:
        (data,) = target.write(saved, path, options).files.values()
        filesystem.write_bytes(path, data)
        return {posixpath.basename(path): filesystem.sha256(data)}, []
    path = path.rstrip("/")
    if filesystem.exists(path) and not filesystem.is_directory(path):
        raise UsageError(f"{path}: is a file; --to {target.name} writes a directory")
    if not overwrite and filesystem.is_directory(path) and filesystem.list_names(path):
        raise UsageError(f"{path}: is not empty; choose another directory, or give --overwrite")
    with _removed_on_failure(path):
        return _write_directory(saved, path, target, options)


def _write_directory(
    saved: PretrainedModel, path: str, target: Format, options: WriteOptions
) -> tuple[dict[str, str], list[str]]:
    assert target.write is not None
    files, notes = target.write(saved, path, options)
    for name, data in files.items():
        # A name from a file never decides where something is written.
        for part in name.split("/"):
            filesystem.plain_name(part, f"{saved.source}: a file inside")
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


@contextlib.contextmanager
def _removed_on_failure(path: str) -> Iterator[None]:
    """Leave nothing half-written: what the block added to the directory goes if it fails."""
    existed = filesystem.is_directory(path)
    before = set(_all_files(path)) if existed else set()
    try:
        yield
    except BaseException:
        with contextlib.suppress(TlmError):
            if not existed:
                filesystem.remove_tree(path)
            for name in set(_all_files(path)) - before:
                filesystem.remove(posixpath.join(path, name))
        raise


def _all_files(path: str, inside: str = "") -> list[str]:
    found: list[str] = []
    for name in filesystem.list_names(posixpath.join(path, inside)):
        below = posixpath.join(inside, name)
        is_directory = filesystem.is_directory(posixpath.join(path, below))
        found += _all_files(path, below) if is_directory else [below]
    return found


def check_same(saved: PretrainedModel, written: PretrainedModel) -> int:
    """Compare a model with what was read back; gives the number of arrays.

    Rows and columns that only pad the vocabulary are not compared: files do not hold them.
    Raises `TlmError` naming an array that is not the same.
    """
    if written.spec != saved.spec:
        raise TlmError(
            f"{written.source}: reading it back gives another configuration: {written.spec} for "
            f"{saved.spec}"
        )
    rows = saved.spec.vocab_size
    for path, value in saved.values.items():
        name = path.removeprefix("generator/")
        if name in ("embeddings/x/table", "head/bias"):
            same = np.array_equal(written.values[path][:rows], value[:rows])
        elif name == "head/kernel":
            same = np.array_equal(written.values[path][..., :rows], value[..., :rows])
        else:
            same = np.array_equal(written.values[path], value)
        if not same:
            raise TlmError(f"{written.source}: reading it back gives other values of {path!r}")
    return len(saved.values)
