"""One label per text, or per pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tpu_tlm.objectives.base import Batch, LossSums
from tpu_tlm.tasks.base import Task, softmax, weighted_cross_entropy, window_weights
from tpu_tlm.tasks.examples import Examples
from tpu_tlm.tasks.read import Row


class Classify(Task):
    """Softmax over the labels of a text."""

    name: ClassVar[str] = "classify"
    metric: ClassVar[str] = "accuracy"

    def targets(self, rows: Sequence[Row], examples: Examples) -> dict[str, Any]:
        label = np.array([self.ids.get(row.label, 0) for row in rows], np.int32)
        return {"label": label[examples.of], "weight": window_weights(examples)}

    def loss(self, logits: tf.Tensor, batch: Batch) -> LossSums:
        return weighted_cross_entropy(batch["label"], logits, batch["weight"], self.weights)

    def decode(self, logits: np.ndarray) -> tuple[str, np.ndarray]:
        probabilities = softmax(logits)
        return self.labels[int(probabilities.argmax())], probabilities

    def gold(self, row: Row) -> str:
        return str(row.label)


class Pair(Classify):
    """Softmax over the labels of a pair of texts."""

    name: ClassVar[str] = "pair"
