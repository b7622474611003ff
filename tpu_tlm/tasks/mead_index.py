"""MEAD's index of embeddings and vectorizers, and the labels that stand in it."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.config import strict
from tpu_tlm.errors import UsageError

# Names of files in an entry.
_FILES = ("file", "vocab_file", "model_file")


def read_index(path: str) -> dict[str, dict[str, Any]]:
    """Label -> entry of an index, MEAD's YAML or JSON: a list of `label` and `file` (of
    vectorizers `vocab_file`, and `model_file` for fastBPE's merges).

    Paths in it are relative to the index. Raises `UsageError` naming an entry that lacks them.
    """
    entries = strict.read_yaml(filesystem.read_bytes(path), path)
    if not isinstance(entries, list):
        raise UsageError(f"{path}: an embeddings index is a list of entries with label and file")
    found: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(entries, 1):
        where = f"{path}: entry {number}"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("label"), str):
            raise UsageError(f"{where} has no label, or no file")
        if not any(entry.get(name) for name in _FILES):
            raise UsageError(f"{where} has no label, or no file")
        if entry["label"] in found:
            raise UsageError(f"{where}: the label {entry['label']!r} stands there twice")
        files = {
            name: _beside(strict.entry(entry, name, str, where), path)
            for name in _FILES
            if entry.get(name) is not None
        }
        found[entry["label"]] = {**entry, **files}
    return found


def _beside(file: str, index: str) -> str:
    if "://" in file or file.startswith("/"):
        return file
    return posixpath.join(posixpath.dirname(index), file)


def resolved(label: str, index: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, Any]:
    """The entry of a label; one that is a path has it as `file`.

    Raises `UsageError` where it is neither, and for an address, which is not downloaded.
    """
    if label in index:
        entry = dict(index[label])
    elif filesystem.exists(label) or filesystem.is_directory(label):
        return {"file": label}
    else:
        known = f" (it has {', '.join(index)})" if index else ""
        raise UsageError(
            f"{where}: {label!r} is neither in --embeddings_index{known} nor a path; give an index "
            "that has it"
        )
    for name in _FILES:
        if str(entry.get(name)).startswith(("http://", "https://")):
            raise UsageError(
                f"{where}: {label!r} is {entry[name]}, which is not downloaded: fetch it, and name "
                "the file in --embeddings_index"
            )
    return entry
