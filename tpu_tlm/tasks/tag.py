"""One label per word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tpu_tlm.objectives.base import Batch, LossSums
from tpu_tlm.tasks.base import Task, softmax, weighted_cross_entropy
from tpu_tlm.tasks.examples import Examples
from tpu_tlm.tasks.read import Row


class Tag(Task):
    """Softmax at the first piece of each word; the other pieces have no label.

    A batch holds sentences of one length. Its loss is divided by the labels that as many sentences
    have on average, not by its own: words of short sentences would count more than others.
    """

    name: ClassVar[str] = "tag"
    metric: ClassVar[str] = "accuracy"
    per_token: ClassVar[bool] = True

    def targets(self, rows: Sequence[Row], examples: Examples) -> dict[str, Any]:
        assert examples.words is not None
        label = []
        for row, words in zip(examples.of, examples.words, strict=True):
            tags = rows[row].label
            ids = np.array([self.ids.get(t, 0) for t in tags] if tags else [0], np.int32)
            label.append(
                np.where(words >= 0, ids[np.maximum(words, 0) if tags else 0], -1).astype(np.int32)
            )
        classes = np.ones(self.outputs) if self.weights is None else self.weights
        counts = [float(classes[ids[ids >= 0]].sum()) for ids in label]
        expected = np.full(len(label), np.mean(counts) if counts else 1.0, np.float32)
        return {"label": label, "weight": expected}

    def loss(self, logits: tf.Tensor, batch: Batch) -> LossSums:
        label = batch["label"]
        there = tf.logical_and(label >= 0, batch["weight"][:, None] > 0.0)
        sums = weighted_cross_entropy(label, logits, tf.cast(there, tf.float32), self.weights)
        return sums._replace(weight=tf.reduce_sum(batch["weight"]))

    def decode(self, logits: np.ndarray) -> tuple[list[str], np.ndarray]:
        probabilities = softmax(logits)
        return [self.labels[i] for i in probabilities.argmax(-1)], probabilities

    def gold(self, row: Row) -> list[str]:
        return list(row.label)
