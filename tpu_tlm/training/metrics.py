"""The figures of a run on disk: lines of metrics.jsonl, and TensorBoard scalars."""

from __future__ import annotations

import json
import math
import os
import posixpath
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from tpu_tlm import filesystem


def read_metrics(path: str) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl as dicts with `step` and `kind`; none where there is no file.

    A torn last line (the run was killed while writing it) is left out; any other line that cannot be read is left out with a warning.
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
        except ValueError:
            if number < len(lines):
                print(f"warning: {path}:{number}: no line of metrics, left out", file=sys.stderr)
    return records


class _Lines:
    """An append-only text file: appended to on a disk, written anew at every flush in object storage, which cannot append."""

    def __init__(self, path: str, lines: list[str]) -> None:
        self.path = path
        filesystem.make_directory(posixpath.dirname(path) or ".")
        text = "".join(lines)
        filesystem.write_bytes(path, text.encode())
        self.text: str | None = text if "://" in path else None
        self.file = None if self.text is not None else open(path, "a", encoding="utf-8")

    def write(self, line: str) -> None:
        if self.file is not None:
            self.file.write(line)
            self.file.flush()
        elif self.text is not None:
            self.text += line

    def flush(self) -> None:
        if self.text is not None:
            filesystem.write_bytes(self.path, self.text.encode())

    def close(self) -> None:
        self.flush()
        if self.file is not None:
            self.file.close()


class _Events:
    """One TensorBoard event file, written without the tensorboard package."""

    def __init__(self, directory: str, start: int) -> None:
        import tensorflow as tf
        from tensorflow.core.util import event_pb2

        filesystem.make_directory(directory)
        seconds, rest = divmod(time.time_ns(), 10**9)
        # TensorBoard reads the files of a directory in the order of their names.
        name = f"events.out.tfevents.{seconds:010d}.{rest:09d}.{socket.gethostname()}.{os.getpid()}"
        self._event = event_pb2.Event
        self._writer = tf.io.TFRecordWriter(posixpath.join(directory, name))
        self._add(file_version="brain.Event:2")
        # TensorBoard forgets what earlier files hold from this step on, so that a continued run has no point twice.
        self._add(
            step=start + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        )

    def _add(self, **fields: Any) -> None:
        self._writer.write(self._event(wall_time=time.time(), **fields).SerializeToString())

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorflow.core.framework import summary_pb2

        points = [
            summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()
        ]
        self._add(step=step, summary=summary_pb2.Summary(value=points))

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Metrics:
    """Writer of a run's figures, one line (and one TensorBoard run) per kind, "train" or "valid".

    A run that continues from step `start` first drops the lines beyond it: no step stands there twice. tb: directory of the
    TensorBoard files (one sub-directory per kind), None for none. Only one process of a run may have one.
    """

    def __init__(self, path: str, *, start: int = 0, tb: str | None = None) -> None:
        kept = [record for record in read_metrics(path) if record["step"] <= start] if start else []
        self._lines = _Lines(path, [_line(record) for record in kept])
        self._start = start
        self._tb = tb
        self._events: dict[str, _Events] = {}

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Record the figures of a step (updates done); one that is not finite becomes null in the line."""
        numbers = {name: float(value) for name, value in values.items()}
        self._lines.write(
            _line({"step": step, "kind": kind, "time": round(time.time(), 3), **numbers})
        )
        if self._tb is None:
            return
        if kind not in self._events:
            self._events[kind] = _Events(posixpath.join(self._tb, kind), self._start)
        self._events[kind].scalars(step, numbers)

    def flush(self) -> None:
        """Bring everything to where it lies for good; at every save, say."""
        self._lines.flush()
        for events in self._events.values():
            events.flush()

    def close(self) -> None:
        """Flush and close the files."""
        self._lines.close()
        for events in self._events.values():
            events.close()


def _line(record: Mapping[str, Any]) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"
