"""Adafactor."""

from __future__ import annotations

import tensorflow as tf

from tpu_tlm.config import OptimConfig
from tpu_tlm.training.optimizers.base import Optimizer, Shape, Slots, root_mean_square


class Adafactor(Optimizer):
    """Adafactor (Shazeer and Stern, arXiv 1804.04235) without momentum.

    The second moments of a matrix are kept as a row and a column vector. As in Keras, the last two
    dimensions of a value are factored, the step is relative to the value's root mean square, and
    its size is the smaller of lr and 1 / sqrt(number of updates).
    """

    beta2_decay = -0.8
    eps_square = 1e-30
    eps_scale = 1e-3
    clip_threshold = 1.0

    @classmethod
    def from_config(cls, config: OptimConfig) -> Adafactor:
        return cls(config.weight_decay)

    def slots_of(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        if len(shape) < 2:
            return {"v": tuple(shape)}
        return {"row": tuple(shape[:-1]), "column": (*shape[:-2], shape[-1])}

    def _scalars(self, lr: tf.Tensor, count: tf.Tensor) -> Slots:
        return tf.minimum(lr, tf.math.rsqrt(count)), tf.pow(count, self.beta2_decay)

    def _change(
        self, value: tf.Tensor, grad: tf.Tensor, slots: Slots, scalars: Slots, weight: bool
    ) -> tuple[tf.Tensor, Slots]:
        rho, share = scalars
        squares = tf.square(grad) + self.eps_square
        new: Slots
        if len(slots) == 1:
            new = (slots[0] + (squares - slots[0]) * share,)
            update = grad / tf.sqrt(new[0])
        else:
            row = slots[0] + (tf.reduce_mean(squares, -1) - slots[0]) * share
            column = slots[1] + (tf.reduce_mean(squares, -2) - slots[1]) * share
            row_factor = tf.sqrt(row / tf.reduce_mean(row, -1, keepdims=True))
            update = grad / (row_factor[..., None] * tf.sqrt(column)[..., None, :])
            new = (row, column)
        update = update / tf.maximum(1.0, root_mean_square(update) / self.clip_threshold)
        return rho * tf.maximum(self.eps_scale, root_mean_square(value)) * update, new
