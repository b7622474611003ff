"""The interface of a task: an objective with labels."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.objectives.base import Batch, LossSums, Objective
from tpu_tlm.tasks.examples import Examples
from tpu_tlm.tasks.read import Row

# Features of a task's model; the other arrays of a batch are labels.
FEATURES = ("x", "tt", "x2", "n", "n2", "u", "v")


class Task(Objective):
    """A supervised task: targets, loss, and what the outputs mean.

    Called inside the compiled step like an objective. A batch has the model's features, `label`,
    and `weight` (float32 `[rows]`, 0 for rows that only fill a batch).

    labels: the label set in order, [] for numbers. weights: of the classes in the loss, or None.

    Class attributes: name; metric: what chooses the best checkpoint; per_token: whether every
    token has an output.
    """

    name: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    metric: ClassVar[str]
    per_token: ClassVar[bool] = False
    perplexity: ClassVar[bool] = False

    def __init__(
        self,
        labels: Sequence[str],
        weights: np.ndarray | None = None,
        scale: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.labels, self.weights, self.scale = list(labels), weights, scale
        self.ids = {label: i for i, label in enumerate(self.labels)}

    @property
    def outputs(self) -> int:
        """Numbers that the head gives per text or token."""
        return len(self.labels)

    @abc.abstractmethod
    def targets(self, rows: Sequence[Row], examples: Examples) -> dict[str, Any]:
        """`label` (and more) per window; `tasks.batches.make_buckets` takes them."""

    @abc.abstractmethod
    def loss(self, logits: tf.Tensor, batch: Batch) -> LossSums:
        """Sums over a batch, float32."""

    @abc.abstractmethod
    def decode(self, logits: np.ndarray) -> tuple[Any, np.ndarray]:
        """(guess, probabilities) of the logits of one text or its words; a number has none."""

    @abc.abstractmethod
    def gold(self, row: Row) -> Any:
        """The label of a row, comparable with the guesses of `decode`."""

    def __call__(self, model: Any, batch: Batch, key: Key, *, training: bool) -> LossSums:
        features = {name: batch[name] for name in FEATURES if name in batch}
        return self.loss(model(features, key=key if training else None), batch)

    def predictions(self, seq_length: int) -> int:
        """Positions that reach the head."""
        return seq_length if self.per_token else 1


def window_weights(examples: Examples) -> np.ndarray:
    """1 / (windows of the text) for each window, so that every text counts once: float32."""
    return (1.0 / examples.windows()[examples.of]).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis, float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def weighted_cross_entropy(
    labels: tf.Tensor, logits: tf.Tensor, weight: tf.Tensor, classes: np.ndarray | None
) -> LossSums:
    """Cross entropy of int labels `[...]` under `[..., C]`, weights `[...]` times the classes'.

    The weight is the sum of both weights, as in PyTorch's weighted mean.
    """
    safe = tf.maximum(labels, 0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(safe, logits)
    right = tf.cast(tf.equal(tf.argmax(logits, -1, output_type=tf.int32), safe), tf.float32)
    scaled = weight
    if classes is not None:
        chosen = tf.one_hot(safe, len(classes)) * tf.constant(classes, tf.float32)
        scaled = weight * tf.reduce_sum(chosen, -1)
    return LossSums(
        tf.reduce_sum(losses * scaled),
        tf.reduce_sum(scaled),
        {"accuracy": (tf.reduce_sum(right * weight), tf.reduce_sum(weight))},
    )
