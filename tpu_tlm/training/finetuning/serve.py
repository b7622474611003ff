"""A fine-tuned model as a SavedModel that takes strings."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm import filesystem
from tpu_tlm.errors import UsageError
from tpu_tlm.filesystem.tensorflow_files import translating
from tpu_tlm.formats.tensorflow.graph_tokenizers import GraphTokenizer
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.training.finetuning.predict import TaskPredictor


class ServedTask(tf.Module):
    """`serving_default`: string `[B]` -> classify: `label` string `[B]`, `probabilities` float32
    `[B, labels]`; multilabel: `probabilities`; regress: `score` float32 `[B]`. `labels` gives the
    names of the columns. Texts are framed, cut (with `--stride`: made windows) and padded to
    `length` tokens."""

    def __init__(self, predictor: TaskPredictor, length: int) -> None:
        super().__init__(name="task")
        if predictor.task.per_token or predictor.pairs is not None:
            raise UsageError(
                f"{predictor.source}: a SavedModel takes single texts; --task "
                f"{predictor.task.name} has none, or pairs"
            )
        self.predictor_task, self.length = predictor.task, length
        self.framer, self.model = predictor.framer, predictor.model
        self.room = self.length - len(self.framer.prefix) - len(self.framer.suffix)
        if self.framer.stride >= self.room:
            raise UsageError(
                f"length {self.length}: leaves windows of {self.room} tokens, which cannot overlap "
                f"by the run's --stride {self.framer.stride}"
            )
        self.values = {
            path: variable.value for path, variable in named_variables(self.model).items()
        }
        self.tokenizer = GraphTokenizer(predictor.tokenizer)

    def framed(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Windows of strings `[B]`: ids int32 `[W, length]`, the tokens of each, int32 `[W]`, and
        its text, int64 `[W]`.

        With the run's `--stride` a long text has several, as in `Framer`; else it is cut.
        """
        framer = self.framer
        ids = self.tokenizer(texts)
        if framer.stride:
            ids, of = self._windows(ids)
        else:
            ids, of = ids[:, : self.room], tf.range(tf.shape(texts, tf.int64)[0])
        rows = tf.shape(of)[0]

        def column(frame: list[int]) -> list[tf.Tensor]:
            return [tf.tile(tf.constant([frame], tf.int32), [rows, 1])] if frame else []

        parts = [*column(framer.prefix), tf.cast(ids, tf.int32), *column(framer.suffix)]
        joined = tf.concat(parts, axis=1)
        padded = joined.to_tensor(framer.spec.pad_id, shape=[None, self.length])
        return padded, tf.cast(joined.row_lengths(), tf.int32), of

    def _windows(self, ids: tf.RaggedTensor) -> tuple[tf.RaggedTensor, tf.Tensor]:
        """Windows of ragged ids `[B, n]` that overlap by the stride, and the row of each."""
        stride = tf.constant(self.framer.stride, tf.int64)
        step = self.room - stride
        sizes = tf.cast(ids.row_lengths(), tf.int64)
        several = (sizes - stride + step - 1) // step
        count = tf.where(sizes > self.room, several, tf.ones_like(several))
        of = tf.repeat(tf.range(tf.size(sizes, tf.int64)), count)
        begin = tf.ragged.range(count).flat_values * step
        end = tf.minimum(begin + self.room, tf.gather(sizes, of))
        first = tf.gather(tf.cast(ids.row_starts(), tf.int64), of)
        return tf.gather(ids.flat_values, tf.ragged.range(first + begin, first + end)), of

    def outputs(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """The outputs by name: of windows their mean."""
        ids, counts, of = self.framed(texts)
        logits = self.model({"x": tf.ensure_shape(ids, [None, self.length]), "n": counts})
        if self.framer.stride:
            logits = tf.math.segment_mean(logits, of)
        task = self.predictor_task
        if task.name == "regress":
            mean, deviation = task.scale
            return {"score": logits[:, 0] * deviation + mean}
        if task.name == "multilabel":
            return {"probabilities": tf.sigmoid(logits)}
        chosen = tf.gather(tf.constant(task.labels), tf.argmax(logits, -1))
        return {"label": chosen, "probabilities": tf.nn.softmax(logits)}


def save_serving(predictor: TaskPredictor, directory: str, length: int | None = None) -> None:
    """Write a SavedModel of a predictor's model; length: tokens of a text, None = as trained.

    Raises `UsageError` for pairs and tags, and for a tokenizer that has no graph form.
    """
    most = predictor.framer.max_length
    if length is not None and not predictor.framer.max_length - predictor.framer.room < length <= (
        most
    ):
        raise UsageError(f"length {length}: must be at most the {most} tokens of the run")
    served = ServedTask(predictor, length or most)
    text = tf.TensorSpec([None], tf.string, name="text")
    signatures: dict[str, Any] = {
        "serving_default": tf.function(served.outputs, autograph=False).get_concrete_function(text),
        "labels": tf.function(
            lambda: {"labels": tf.constant(served.predictor_task.labels or [""])}, autograph=False
        ).get_concrete_function(),
    }
    with filesystem.naming(directory), translating():
        tf.saved_model.save(served, directory, signatures=signatures)
