"""Replaced-token detection from labeled records: `x`, and `y` in {0, 1} of the same length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tpu_tlm.errors import UsageError
from tpu_tlm.models.flops import binary_flops_per_example
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.base import Batch, LossSums, Objective, ObjectiveContext, ObjectiveOptions

METRICS = ("discriminator_loss", "discriminator_accuracy", "precision", "recall", "replaced")


def detection(logits: tf.Tensor, replaced: tf.Tensor, weights: tf.Tensor) -> LossSums:
    """Sigmoid cross entropy of `replaced` (0 or 1) under `logits`, and the metrics METRICS.

    All arguments are float32 `[B, T]`. A token is predicted as replaced where its logit is above 0.
    `precision` and `recall` are those of this prediction; `replaced` is the share of replaced
    tokens.
    """
    called = tf.cast(logits > 0, tf.float32) * weights
    loss, count = (
        tf.reduce_sum(t)
        for t in (tf.nn.sigmoid_cross_entropy_with_logits(replaced, logits) * weights, weights)
    )
    hits, calls, all_replaced = (
        tf.reduce_sum(called * replaced),
        tf.reduce_sum(called),
        tf.reduce_sum(replaced * weights),
    )
    right = count - calls - all_replaced + 2.0 * hits
    found = (
        (loss, count),
        (right, count),
        (hits, calls),
        (hits, all_replaced),
        (all_replaced, count),
    )
    return LossSums(loss, count, dict(zip(METRICS, found, strict=True)))


class Discrimination(Objective):
    """Binary classification of tokens as replaced or original, with labels from the records.

    `y` is 1 for a replaced token (with `--label_one original`: 0). Padding has no weight. Metrics
    are those of ELECTRA's discriminator.
    """

    name = "discriminator"
    kind = "discriminator"
    perplexity = False
    metrics = METRICS

    def __init__(self, pad_id: int, one_is_replaced: bool = True) -> None:
        self.pad_id, self.one_is_replaced = pad_id, one_is_replaced

    @classmethod
    def from_config(cls, context: ObjectiveContext) -> Discrimination:
        return cls(context.spec.pad_id, context.options.electra.label_one == "replaced")

    @classmethod
    def configure_model(
        cls, spec: ModelSpec, options: ObjectiveOptions, lengths: Mapping[str, int]
    ) -> ModelSpec:
        if lengths.get("y") != lengths["x"]:
            found = (
                f"a y of {lengths['y']} tokens and an x of {lengths['x']}"
                if "y" in lengths
                else "no y"
            )
            raise UsageError(
                "--objective discriminator: needs records whose y has 0 or 1 for every token of x;"
                f" these have {found}"
            )
        return spec

    def check(self, first: Mapping[str, Any], where: str) -> None:
        y = first.get("y")
        if y is None or y.shape != first["x"].shape or y.max() > 1:
            raise UsageError(
                f"{where}: --objective discriminator needs a y of 0 or 1 for every token of x;"
                " this dataset has other numbers, as pairs of texts and masked texts do"
            )

    def predictions(self, seq_length: int) -> int:
        return seq_length

    def flops(self, spec: ModelSpec) -> float:
        return binary_flops_per_example(spec.config, spec.seq_length)

    def tokens(self, spec: ModelSpec) -> int:
        return spec.seq_length

    def __call__(self, model: Any, batch: Batch, key: Key, *, training: bool) -> LossSums:
        if "y" not in batch:
            raise UsageError(
                "--objective discriminator: these records have no y, the labels of the tokens"
            )
        x = batch["x"]
        ones = tf.cast(tf.not_equal(batch["y"], 0), tf.float32)
        weights = tf.cast(tf.not_equal(x, self.pad_id), tf.float32)
        if "valid" in batch:
            weights *= batch["valid"][:, None]
        features = {"x": x} | ({"tt": batch["tt"]} if "tt" in batch else {})
        logits = model(features, key=key.fold("dropout") if training else None)
        return detection(logits, ones if self.one_is_replaced else 1.0 - ones, weights)
