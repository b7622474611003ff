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
    """Softmax at the first piece of each word; the other pieces have no label."""

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
        return {"label": label, "weight": np.ones(len(label), np.float32)}

    def loss(self, logits: tf.Tensor, batch: Batch) -> LossSums:
        label = batch["label"]
        weight = tf.cast(label >= 0, tf.float32) * batch["weight"][:, None]
        return weighted_cross_entropy(label, logits, weight, self.weights)

    def decode(self, logits: np.ndarray) -> tuple[list[str], np.ndarray]:
        probabilities = softmax(logits)
        return [self.labels[i] for i in probabilities.argmax(-1)], probabilities

    def gold(self, row: Row) -> list[str]:
        return list(row.label)
