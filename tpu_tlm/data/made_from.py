"""What something was made from: its input files, known by content, and how two makings differ."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.data.corpus.inputs import InputFile

_SAMPLES, _SAMPLE = 32, 16 << 10
_LISTED = 100  # files named one by one; of more only a hash is kept
_REQUESTS = 16


def listing(inputs: Sequence[InputFile]) -> dict[str, Any]:
    """Number, bytes and hash of the input files, as JSON values.

    They are known by name, size and samples of their content, not by their time of change.
    """
    with ThreadPoolExecutor(_REQUESTS) as threads:
        listed = list(threads.map(_file, inputs))
    return {
        "files": len(inputs),
        "bytes": sum(file.size for file in inputs),
        "listing": hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
        **({"inputs": listed} if len(listed) <= _LISTED else {}),
    }


def _file(file: InputFile) -> list[Any]:
    """Printable name, size and a hash of samples of a file's content (all of a small one's)."""
    digest = hashlib.sha256()
    with contextlib.closing(filesystem.open_read(file.path)) as stream:
        if file.size <= _SAMPLES * _SAMPLE:
            digest.update(stream.read(file.size))
        else:
            for index in range(_SAMPLES):
                stream.seek((file.size - _SAMPLE) * index // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE))
    return [printable(file.path), file.size, digest.hexdigest()[:16]]


def printable(path: str) -> str:
    """A path with what is not UTF-8 in it escaped."""
    return path.encode("utf-8", "backslashreplace").decode()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between the makings of two datasets, such as "seed: 0 there, 1 now"."""
    found = []
    for key in sorted({*old, *new}):
        before, now = old.get(key), new.get(key)
        if before == now or key == "inputs":
            continue
        if key == "listing":
            found.append(_input_difference(old, new))
        elif key == "tokenizer":
            found.append("another tokenizer")
        elif key == "pipeline":
            found.append("written by another version of this program")
        else:
            found.append(f"{key}: {before} there, {now} now")
    return "; ".join(found)


def _input_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first input file that differs, in words."""
    before = {name: rest for name, *rest in old.get("inputs") or ()}
    now = {name: rest for name, *rest in new.get("inputs") or ()}
    if not before or not now:
        return "other input files, or their content changed"
    for name in now:
        if name not in before:
            return f"input {name} is new"
        if before[name] != now[name]:
            return f"input {name} changed: {before[name][0]:,} bytes there, {now[name][0]:,} now"
    gone = next((name for name in before if name not in now), None)
    return f"input {gone} is not given" if gone else "input files in another order"
