"""Contrastive training of a dual encoder, with the other pairs of the batch as negatives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import tensorflow as tf

from tpu_tlm.config import ContrastiveConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.models.flops import dual_flops_per_example
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.masks import MASKED
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.base import Batch, LossSums, Objective, ObjectiveContext, ObjectiveOptions
from tpu_tlm.objectives.replicas import ALONE, Replicas

LARGEST_SCALE = 100.0  # of the similarities: CLIP's (arXiv 2103.00020, 2.5)
RANKS = (1, 5, 10)
_EQUAL = 1e-6  # cosines that differ by less count as equal, as those of equal texts


class Scores(NamedTuple):
    """Cosines of this replica's n texts with the N candidates of all replicas.

    `cosines` float32 `[n, N]`; `own` bool `[n, N]`, true at a row's own candidate; `wrong` bool
    `[n, N]`, true at its negatives.
    """

    cosines: tf.Tensor
    own: tf.Tensor
    wrong: tf.Tensor

    @property
    def positive(self) -> tf.Tensor:
        """The cosine of each pair, `[n]`."""
        return tf.reduce_sum(tf.where(self.own, self.cosines, 0.0), axis=1)

    def cross_entropy(self, scale: tf.Tensor) -> tf.Tensor:
        """Cross entropy of each row's own candidate under softmax(scale * cosines), `[n]`.

        `scale`: float32 scalar or `[n, 1]`.
        """
        logits = tf.where(tf.logical_or(self.own, self.wrong), self.cosines * scale, MASKED)
        return tf.reduce_logsumexp(logits, axis=1) - tf.reduce_sum(
            tf.where(self.own, logits, 0.0), axis=1
        )

    def hinge(self, margin: float) -> tf.Tensor:
        """Mean over a row's negatives of max(0, margin + cosine - positive cosine), `[n]`."""
        short = tf.nn.relu(margin + self.cosines - self.positive[:, None])
        return _over(
            tf.reduce_sum(tf.where(self.wrong, short, 0.0), axis=1),
            tf.reduce_sum(tf.cast(self.wrong, tf.float32), axis=1),
        )

    def ranks(self) -> tf.Tensor:
        """Rank of each row's own candidate, from 1, float32 `[n]`.

        A candidate of equal cosine counts half, so that constant vectors gain nothing.
        """
        nearer = self.cosines - self.positive[:, None]
        before = tf.where(nearer > _EQUAL, 1.0, tf.where(nearer < -_EQUAL, 0.0, 0.5))
        before = tf.where(self.wrong, before, 0.0)
        return 1.0 + tf.reduce_sum(before, axis=1)


def _over(total: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    return total / tf.maximum(count, 1.0)


def scale_of(temperature: tf.Tensor) -> tf.Tensor:
    """exp(temperature), at most `LARGEST_SCALE`.

    The gradient is not clipped at the limit, so that a scale can decrease from it.
    """
    limited = tf.minimum(temperature, math.log(LARGEST_SCALE))
    return tf.exp(temperature + tf.stop_gradient(limited - temperature))


class DualEncoding(Objective):
    """Loss `--loss` over the pairs of the global batch, each with the other pairs as negatives.

    With unit vectors u (x) and v (y), c_ij = u_i . v_j and the scale s:

        contrastive    mean of -log softmax_j(s c_ij)[i], s = exp(temperature), trained (`scale_of`)
        symmetric      mean of that and of the same over i, for each v (CLIP, arXiv 2103.00020)
        triplet        mean over j != i of max(0, margin + c_ij - c_ii) (arXiv 1411.2539)
        all, all_mean  contrastive with s increasing from 1 to sqrt(d_out) with the example's
                       position in the run (ConveRT, arXiv 1911.03688, 3.2); `all` is the sum over
                       the batch, as in MEAD. Evaluation uses the final s.

    Metrics, with the rows of the batch as candidates: recall@k, share of pairs whose y is among the
    k candidates nearest to x; mrr, mean of 1 / rank; scale. Rows that only fill a batch are not
    candidates.
    """

    name = "dual-encoder"
    kind = "dual"
    metrics = (*(f"recall@{k}" for k in RANKS), "mrr", "scale")
    cross_replica = True
    perplexity = False

    def __init__(self, config: ContrastiveConfig) -> None:
        self.config = config

    @classmethod
    def from_config(cls, context: ObjectiveContext) -> DualEncoding:
        return cls(context.options.contrastive)

    @classmethod
    def configure_model(
        cls, spec: ModelSpec, options: ObjectiveOptions, lengths: Mapping[str, int]
    ) -> ModelSpec:
        """Set the length of the second text.

        Raises `UsageError` for records without one, and for `scale_examples` below 1.
        """
        if (examples := options.contrastive.scale_examples) < 1:
            raise UsageError(f"--scale_examples {examples}: must be at least 1")
        if "y" not in lengths:
            raise UsageError(
                "--objective dual-encoder: these records are not pairs; "
                "preprocess with --pairs ntp, nsp or tsv"
            )
        return replace(spec, seq_length_y=lengths["y"])

    def predictions(self, seq_length: int) -> int:
        return 0

    def flops(self, spec: ModelSpec) -> float:
        return dual_flops_per_example(
            spec.config, spec.seq_length, spec.seq_length_y or spec.seq_length
        )

    def _scale(self, model: Any, position: tf.Tensor, width: int, training: bool) -> tf.Tensor:
        """The factor of the cosines, float32 `[n, 1]` or scalar."""
        if self.config.loss in ("contrastive", "symmetric"):
            temperature = tf.convert_to_tensor(model.temperature)
            return scale_of(
                temperature if self.config.learn_temp else tf.stop_gradient(temperature)
            )
        if self.config.loss == "triplet":
            return tf.constant(1.0)
        done = tf.cast(position, tf.float32)[:, None] / max(1, self.config.scale_examples)
        return 1.0 + (math.sqrt(width) - 1.0) * (tf.minimum(done, 1.0) if training else 1.0)

    def _losses(
        self, forward: Scores, backward: Scores | None, scale: tf.Tensor, count: tf.Tensor
    ) -> tf.Tensor:
        """Loss per row, `[n]`; `count`: pairs in the global batch."""
        if self.config.loss == "triplet":
            return forward.hinge(self.config.margin)
        losses = forward.cross_entropy(scale)
        if backward is not None:
            return (losses + backward.cross_entropy(scale)) / 2.0
        return losses * count if self.config.loss == "all" else losses

    def __call__(
        self, model: Any, batch: Batch, key: Key, *, training: bool, replicas: Replicas = ALONE
    ) -> LossSums:
        if "y" not in batch:
            raise UsageError(
                "a dual encoder needs pairs: these records have no second text (y); "
                "preprocess with --pairs"
            )
        vectors = model(
            {"x": batch["x"], "y": batch["y"]}, key=key.fold("dropout") if training else None
        )
        u, v = (
            tf.math.l2_normalize(tf.cast(side, tf.float32), axis=-1, epsilon=1e-12)
            for side in vectors
        )
        rows, width = u.shape
        valid = batch["valid"] if "valid" in batch else tf.ones([rows])
        symmetric = self.config.loss == "symmetric"
        # A single all-gather for everything that replicas exchange.
        gathered = replicas.gather(
            tf.concat([v, *([u] if symmetric else []), valid[:, None]], axis=1)
        )
        counts = gathered[:, -1] > 0.0
        place = tf.cast(replicas.index, tf.int32) * rows + tf.range(rows)
        own = tf.equal(tf.range(gathered.shape[0])[None, :], place[:, None])
        wrong = tf.logical_and(counts[None, :], tf.logical_not(own))

        def scores(side: tf.Tensor, candidates: tf.Tensor) -> Scores:
            return Scores(tf.matmul(side, candidates, transpose_b=True), own, wrong)

        forward = scores(u, gathered[:, :width])
        scale = self._scale(model, batch["position"], width, training)
        losses = self._losses(
            forward,
            scores(v, gathered[:, width : 2 * width]) if symmetric else None,
            scale,
            tf.reduce_sum(gathered[:, -1]),
        )
        weight = tf.reduce_sum(valid)
        ranks = tf.stop_gradient(forward.ranks())
        metrics = {
            f"recall@{k}": tf.reduce_sum(valid * tf.cast(ranks <= k, tf.float32)) for k in RANKS
        }
        metrics |= {
            "mrr": tf.reduce_sum(valid / ranks),
            "scale": tf.reduce_sum(valid * tf.reshape(tf.broadcast_to(scale, (rows, 1)), (-1,))),
        }
        return LossSums(
            tf.reduce_sum(losses * valid),
            weight,
            {name: (total, weight) for name, total in metrics.items()},
        )
