"""The metrics of a run on disk, one JSON line per record."""

from __future__ import annotations

import json
import math
import posixpath
import sys
import time
from collections.abc import Mapping
from typing import Any

from tpu_tlm import filesystem


def read_metrics(path: str) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl as dicts with `step` and `kind`; empty without a file.

    An incomplete last line (the run was killed while writing it) is left out; any other line that
    cannot be read is left out with a warning.
    """
    try:
        raw = filesystem.of(path).read(path)
    except FileNotFoundError:
        return []
    lines = raw.decode("utf-8", "replace").split("\n")
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not (
                isinstance(record, dict)
                and isinstance(record.get("step"), int)
                and isinstance(record.get("kind"), str)
            ):
                raise ValueError
            records.append(record)
        except (ValueError, RecursionError):
            if number < len(lines):
                print(f"warning: {path}:{number}: not a line of metrics, left out", file=sys.stderr)
    return records


class Metrics:
    """Writer of metrics.jsonl.

    A run that continues from step `start` first drops the lines after it, so that no step appears
    twice. On a local disk lines are appended; in object storage, which cannot append, the file is
    rewritten at every flush. Only one process of a run may have a writer. All methods raise OSError
    when the file cannot be written.
    """

    def __init__(self, path: str, *, start: int = 0) -> None:
        kept = [record for record in read_metrics(path) if record["step"] <= start] if start else []
        self.path = path
        self._storage = filesystem.of(path)
        self._storage.make(posixpath.dirname(path) or ".")
        text = "".join(map(_line, kept))
        self._storage.write(path, text.encode())
        self._text: str | None = text if "://" in path else None
        self._file = None if self._text is not None else open(path, "a", encoding="utf-8")

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Record the values of a step (updates made); one that is not finite becomes null."""
        numbers = {name: float(value) for name, value in values.items()}
        line = _line({"step": step, "kind": kind, "time": round(time.time(), 3), **numbers})
        if self._file is not None:
            self._file.write(line)
            self._file.flush()
        elif self._text is not None:
            self._text += line

    def flush(self) -> None:
        """Write everything to the file."""
        if self._text is not None:
            self._storage.write(self.path, self._text.encode())

    def close(self) -> None:
        """Flush and close the file."""
        try:
            self.flush()
        finally:
            if self._file is not None:
                self._file.close()


def _line(record: Mapping[str, Any]) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"
