"""An objective of a user's own: which tokens have stood earlier in the text."""

from __future__ import annotations

import tensorflow as tf

from tpu_tlm.objectives.base import Objective, Sums


class Repeated(Objective):
    """The model says of each token whether the same one stands anywhere before it."""

    name, kind, metrics, perplexity = "repeated", "discriminator", ("accuracy",), False

    def predictions(self, nctx):
        return nctx

    def __call__(self, model, batch, key, *, training):
        x = batch["x"]
        before = tf.linalg.band_part(tf.ones((x.shape[1], x.shape[1]), tf.float32), -1, 0) - tf.eye(
            x.shape[1]
        )
        same = tf.cast(x[:, :, None] == x[:, None, :], tf.float32) * before
        labels = tf.cast(tf.reduce_sum(same, axis=2) > 0, tf.float32)
        weights = tf.ones_like(labels) * batch.get("valid", tf.ones_like(labels[:, 0]))[:, None]
        logits = model({"x": x}, key=key.fold("dropout") if training else None)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
        right = tf.cast((logits > 0) == (labels > 0), tf.float32)
        loss, good, count = (
            tf.reduce_sum(t * weights) for t in (losses, right, tf.ones_like(labels))
        )
        return Sums(loss, count, {"accuracy": (good, count)})
