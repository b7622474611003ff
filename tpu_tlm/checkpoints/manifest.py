"""The manifest of a checkpoint: its files with their checksums, the step, and the run's state."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from tpu_tlm import __version__
from tpu_tlm.checkpoints import tensor_bundle
from tpu_tlm.errors import TlmError

FORMAT = 1
MANIFEST = "manifest.json"
PREFIX = "variables"


def dump(step: int, state: Mapping[str, Any], files: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest. files: from `describe`; `ValueError` for state JSON cannot hold."""
    manifest = {
        "format": FORMAT,
        "step": step,
        "state": dict(state),
        "files": files,
        "written_by": f"tpu_tlm {__version__}",
    }
    whole = {**manifest, "sha256": _checksum(manifest)}
    return (json.dumps(whole, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def parse(raw: bytes, where: str) -> dict[str, Any]:
    """A manifest of this format, checked.

    Raises `ValueError` with what is wrong, without the file's name, and `TlmError` naming `where`
    for a manifest of another version of the program.
    """
    try:
        manifest = json.loads(raw)
        checksum = manifest.pop("sha256")
        actual = _checksum(manifest)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        raise ValueError("is not what was written") from None
    if checksum != actual:
        raise ValueError("does not have the checksum it was written with")
    if manifest.get("format") != FORMAT:
        raise TlmError(
            f"{where} has format {manifest.get('format')!r}, and this program reads {FORMAT}: use "
            "the tpu_tlm that wrote it"
        )
    if not _is_manifest(manifest):
        raise ValueError("is not what was written")
    return dict(manifest)


def describe(directory: str) -> dict[str, dict[str, Any]]:
    """Name -> size and SHA-256 of every file in a local directory."""
    return {
        name: _description(os.path.join(directory, name)) for name in sorted(os.listdir(directory))
    }


def _is_manifest(manifest: dict[str, Any]) -> bool:
    """Whether a manifest of this format has what is read of it, of the right types."""
    files = manifest.get("files")
    return (
        isinstance(manifest.get("step"), int)
        and isinstance(manifest.get("state"), dict)
        and isinstance(files, dict)
        and {PREFIX + tensor_bundle.INDEX, PREFIX + tensor_bundle.DATA} <= set(files)
        and all(
            isinstance(told, dict)
            and isinstance(told.get("bytes"), int)
            and isinstance(told.get("sha256"), str)
            for told in files.values()
        )
    )


def _description(path: str) -> dict[str, Any]:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return {"bytes": os.path.getsize(path), "sha256": digest.hexdigest()}


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps(manifest, sort_keys=True, allow_nan=False).encode()
    ).hexdigest()
