"""TensorBoard event files, written without the tensorboard package."""

from __future__ import annotations

import os
import posixpath
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.filesystem.tensorflow_files import translating
from tpu_tlm.training.samples import Sample, as_markdown


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

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Add a Markdown text, which TensorBoard's text plugin shows."""
        import tensorflow as tf
        from tensorflow.core.framework import summary_pb2

        plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
        value = summary_pb2.Summary.Value(
            tag=tag,
            metadata=summary_pb2.SummaryMetadata(plugin_data=plugin),
            tensor=tf.make_tensor_proto([markdown.encode()], dtype=tf.string, shape=[1]),
        )
        self._add(step=step, summary=summary_pb2.Summary(value=[value]))

    def hyper_parameters(self, options: Mapping[str, Any]) -> None:
        """Add the options for TensorBoard's page on hyper-parameters.

        Without the package tensorboard, which defines their form, nothing is added.
        """
        try:
            from tensorboard.plugins.hparams import summary_v2
        except ImportError:
            return
        values = {
            name: value
            if isinstance(value, bool | int | float | str)
            else " ".join(map(str, value))
            for name, value in options.items()
            if value is not None and value != []
        }
        from tensorflow.core.framework import summary_pb2

        # The package has a class of its own for the same message.
        made = summary_v2.hparams_pb(values).SerializeToString()
        self._add(summary=summary_pb2.Summary.FromString(made))

    def flush(self) -> None:
        """Write everything to the file."""
        with translating():
            self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        with translating():
            self._writer.close()


class TensorBoard:
    """TensorBoard scalars, one run (sub-directory) per kind: "train" and "valid".

    options: of the run, for the page on hyper-parameters.
    """

    def __init__(
        self, directory: str, start: int = 0, options: Mapping[str, Any] | None = None
    ) -> None:
        self.path = directory
        self._start, self._options = start, options or {}
        self._files: dict[str, EventFile] = {}

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Add one point per value. Raises OSError."""
        if kind not in self._files:
            self._files[kind] = EventFile(posixpath.join(self.path, kind), self._start)
            if self._options and kind == "train":
                self._files[kind].hyper_parameters(self._options)
        self._files[kind].scalars(step, values)

    def flush(self) -> None:
        """Write everything to the files. Raises OSError."""
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        """Flush and close the files. Raises OSError."""
        for file in self._files.values():
            file.close()


class SampleTexts:
    """Writes the guesses of `GuessSamples` as texts of TensorBoard, in the run "samples"."""

    def __init__(self, directory: str) -> None:
        self._directory = posixpath.join(directory, "samples")
        self._file: EventFile | None = None

    def __call__(self, step: int, samples: Sequence[Sample]) -> None:
        """Add the samples of a step. Raises OSError."""
        if self._file is None:
            self._file = EventFile(self._directory, step - 1)
        self._file.text(step, "guesses", as_markdown(samples))
        self._file.flush()
