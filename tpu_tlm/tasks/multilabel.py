"""Any number of labels per text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tpu_tlm.objectives.base import Batch, LossSums
from tpu_tlm.tasks.base import Task, window_weights
from tpu_tlm.tasks.examples import Examples
from tpu_tlm.tasks.read import Row


class MultiLabel(Task):
    """A sigmoid for each label; a label is given from probability 0.5 on."""

    name: ClassVar[str] = "multilabel"
    metric: ClassVar[str] = "micro_f1"

    def targets(self, rows: Sequence[Row], examples: Examples) -> dict[str, Any]:
        label = np.zeros((len(rows), self.outputs), np.float32)
        for i, row in enumerate(rows):
            for name in row.label or ():
                label[i, self.ids[name]] = 1.0
        return {"label": label[examples.of], "weight": window_weights(examples)}

    def loss(self, logits: tf.Tensor, batch: Batch) -> LossSums:
        label, weight = batch["label"], batch["weight"]
        losses = tf.nn.sigmoid_cross_entropy_with_logits(label, logits)
        if self.weights is not None:  # of the rarer side of each label
            losses *= 1.0 + label * (tf.constant(self.weights, tf.float32) - 1.0)
        right = tf.cast(tf.equal(logits > 0.0, label > 0.5), tf.float32)
        total = tf.reduce_sum(weight)
        return LossSums(
            tf.reduce_sum(tf.reduce_mean(losses, -1) * weight),
            total,
            {"accuracy": (tf.reduce_sum(tf.reduce_mean(right, -1) * weight), total)},
        )

    def decode(self, logits: np.ndarray) -> tuple[list[str], np.ndarray]:
        probabilities = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
        chosen = zip(self.labels, probabilities, strict=True)
        return [label for label, p in chosen if p >= 0.5], probabilities

    def gold(self, row: Row) -> list[str]:
        return [label for label in self.labels if label in set(row.label)]
