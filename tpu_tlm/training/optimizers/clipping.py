"""Clipping of gradients by their global norm."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tpu_tlm.models.layers.shared import constant


def global_norm(grads: Sequence[tf.Tensor]) -> tf.Tensor:
    """Euclidean norm of all gradients together, float32 scalar; not finite if a gradient is not."""
    tensors = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in grads]
    axes = [constant(tuple(range(len(t.shape))), tf.int32) for t in tensors]
    return tf.sqrt(
        tf.add_n([tf.reduce_sum(tf.square(t), axis=a) for t, a in zip(tensors, axes, strict=True)])
    )


def clip_by_global_norm(
    grads: Sequence[tf.Tensor], clip: float, norm: tf.Tensor | None = None
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Scale gradients to a global norm of at most `clip`; returns them and the norm before.

    norm: that norm, where `grads` are a part of all gradients; None computes it from `grads`. To be
    called after the sum over replicas. Gradients are unchanged for clip <= 0, and where the norm is
    not finite, which the caller sees from it.
    """
    if norm is None:
        norm = global_norm(grads)
    if clip <= 0.0:
        return list(grads), norm
    scale = tf.where((norm > clip) & tf.math.is_finite(norm), clip / norm, 1.0)
    return [tf.convert_to_tensor(g) * tf.cast(scale, g.dtype) for g in grads], norm
