"""A number per text, or per pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tpu_tlm.objectives.base import Batch, LossSums
from tpu_tlm.tasks.base import Task, window_weights
from tpu_tlm.tasks.examples import Examples
from tpu_tlm.tasks.read import Row


class Regress(Task):
    """Squared error of a number; the head learns it standardised by `scale` (mean, deviation)."""

    name: ClassVar[str] = "regress"
    metric: ClassVar[str] = "spearman"
    metrics: ClassVar[tuple[str, ...]] = ("absolute_error",)

    @property
    def outputs(self) -> int:
        return 1

    def targets(self, rows: Sequence[Row], examples: Examples) -> dict[str, Any]:
        mean, deviation = self.scale
        label = np.array([row.label or 0.0 for row in rows], np.float64)
        scaled = ((label - mean) / deviation).astype(np.float32)
        return {"label": scaled[examples.of], "weight": window_weights(examples)}

    def loss(self, logits: tf.Tensor, batch: Batch) -> LossSums:
        weight = batch["weight"]
        error = logits[:, 0] - batch["label"]
        total = tf.reduce_sum(weight)
        absolute = tf.reduce_sum(tf.abs(error) * weight) * self.scale[1]
        return LossSums(
            tf.reduce_sum(tf.square(error) * weight), total, {"absolute_error": (absolute, total)}
        )

    def decode(self, logits: np.ndarray) -> tuple[float, np.ndarray]:
        mean, deviation = self.scale
        return float(logits[0]) * deviation + mean, np.zeros(0)

    def gold(self, row: Row) -> float:
        return float(row.label)
