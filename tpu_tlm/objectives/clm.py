"""Causal language modeling: every token is predicted from the tokens before it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.errors import UsageError
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.objectives.base import Batch, LossSums, Objective, ObjectiveContext, cross_entropy


class CausalLanguageModeling(Objective):
    """Cross entropy of the next token at every position but the last.

    Metric `accuracy`: share of labels whose logit is the largest. Labels are the input shifted by
    one, on the device. Padding is not predicted; with `segment_mask`, neither is the first token of
    a segment, which does not depend on the segment before it. Raises `UsageError` for datasets of
    pairs or of static masks.
    """

    name = "clm"
    kind = "clm"
    metrics = ("accuracy",)

    def __init__(self, pad_id: int, segment_end: int | None = None) -> None:
        self.pad_id, self.segment_end = pad_id, segment_end

    @classmethod
    def from_config(cls, context: ObjectiveContext) -> CausalLanguageModeling:
        return cls(
            context.spec.pad_id, context.spec.eol_id if context.spec.config.segment_mask else None
        )

    def predictions(self, seq_length: int) -> int:
        return seq_length

    def labels(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Labels int32 and weights float32 of tokens int `[rows, T]`, `[rows, T]` each.

        The last position is kept with weight 0: T stays a multiple of what the hardware prefers.
        """
        labels = tf.pad(x[:, 1:], ((0, 0), (0, 1)), constant_values=self.pad_id)
        counted = tf.not_equal(labels, self.pad_id)
        if self.segment_end is not None:
            counted = tf.logical_and(counted, tf.not_equal(x, self.segment_end))
        return labels, tf.cast(counted, tf.float32)

    def __call__(self, model: Any, batch: Batch, key: Key, *, training: bool) -> LossSums:
        if "y" in batch and "w" in batch:
            raise UsageError(
                "--objective clm: these examples are pairs; preprocess the text without --pairs"
            )
        if "y" in batch:
            raise UsageError(
                "--objective clm: these records carry static masks (x and y); "
                "preprocess the text again, without masking"
            )
        labels, weights = self.labels(batch["x"])
        if "valid" in batch:
            weights *= batch["valid"][:, None]
        features = {"x": batch["x"]} | ({"tt": batch["tt"]} if "tt" in batch else {})
        logits = model(features, key=key.fold("dropout") if training else None)
        losses, right = cross_entropy(labels, logits)
        weight = tf.reduce_sum(weights)
        return LossSums(
            tf.reduce_sum(losses * weights),
            weight,
            {"accuracy": (tf.reduce_sum(right * weights), weight)},
        )
