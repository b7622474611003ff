"""TensorBoard event files, written without the tensorboard package."""

from __future__ import annotations

import os
import posixpath
import socket
import time
from collections.abc import Mapping
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.filesystem.tensorflow_files import translating


class EventFile:
    """One event file with scalars.

    directory: the TensorBoard run; start: steps made before, from which on TensorBoard discards
    what earlier files hold, so that a continued run has no point twice. Methods raise OSError when
    the file cannot be written.
    """

    def __init__(self, directory: str, start: int) -> None:
        import tensorflow as tf
        from tensorflow.core.util import event_pb2

        filesystem.of(directory).make(directory)
        seconds, rest = divmod(time.time_ns(), 10**9)
        # TensorBoard reads the files of a directory in the order of their names.
        name = f"events.out.tfevents.{seconds:010d}.{rest:09d}.{socket.gethostname()}.{os.getpid()}"
        self.path = posixpath.join(directory, name)
        self._event = event_pb2.Event
        with translating():
            self._writer = tf.io.TFRecordWriter(self.path)
        self._add(file_version="brain.Event:2")
        session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step=start + 1, session_log=session)

    def _add(self, **fields: Any) -> None:
        with translating():
            self._writer.write(self._event(wall_time=time.time(), **fields).SerializeToString())

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point per tag."""
        from tensorflow.core.framework import summary_pb2

        points = [
            summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()
        ]
        self._add(step=step, summary=summary_pb2.Summary(value=points))

    def flush(self) -> None:
        """Write everything to the file."""
        with translating():
            self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        with translating():
            self._writer.close()


class TensorBoard:
    """TensorBoard scalars, one run (sub-directory) per kind: "train" and "valid"."""

    def __init__(self, directory: str, start: int = 0) -> None:
        self.path = directory
        self._start = start
        self._files: dict[str, EventFile] = {}

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Add one point per value. Raises OSError."""
        if kind not in self._files:
            self._files[kind] = EventFile(posixpath.join(self.path, kind), self._start)
        self._files[kind].scalars(step, values)

    def flush(self) -> None:
        """Write everything to the files. Raises OSError."""
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        """Flush and close the files. Raises OSError."""
        for file in self._files.values():
            file.close()
