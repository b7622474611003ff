"""The commands called in this process as a user types them, and figures of an NPZ's arrays."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

# Keys of an NPZ that hold text (configuration, tokenizer, origin) and no weights begin with this.
OWN, EXTRA = "tpu_tlm/", "tpu_tlm/extra/"
FIRST = 3


def call(command: str, *argv: str) -> str:
    """Call `python -m tpu_tlm.COMMAND ARGV` in this process; returns its standard output."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        code = importlib.import_module(f"tpu_tlm.{command}").main(list(argv))
    assert code == 0, f"{command} {' '.join(argv)}: exit code {code}\n{shown.getvalue()}"
    return shown.getvalue()


def objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects in a command's output, one a line."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def weights(path: Path | str) -> Iterator[tuple[str, np.ndarray]]:
    """Key and array of every weight in an NPZ file, by key."""
    with np.load(path) as arrays:
        for key in sorted(arrays.files):
            if not key.startswith(OWN) or key.startswith(EXTRA):
                yield key, arrays[key]


def checksums(path: Path | str) -> dict[str, str]:
    """SHA-256 over dtype, shape and bytes of every weight in an NPZ file."""
    return {
        key: hashlib.sha256(
            f"{value.dtype.str} {value.shape} ".encode() + np.ascontiguousarray(value).tobytes()
        ).hexdigest()
        for key, value in weights(path)
    }


def figures(path: Path | str) -> dict[str, list[float]]:
    """Sum, Euclidean norm and first values of every weight in an NPZ file, computed in float64."""
    found = {}
    for key, value in weights(path):
        flat = value.astype(np.float64).ravel()
        found[key] = [float(flat.sum()), float(np.sqrt((flat**2).sum())), *map(float, flat[:FIRST])]
    return found
