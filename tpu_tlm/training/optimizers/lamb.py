"""LAMB."""

from __future__ import annotations

import tensorflow as tf

from tpu_tlm.training.optimizers.adam import AdamW
from tpu_tlm.training.optimizers.base import Slots, norm, one_minus_power


class Lamb(AdamW):
    """LAMB (You et al., arXiv 1904.00962): Adam's update, scaled to the norm of each weight.

    Norms and biases are not scaled, as in the authors' implementation: a bias starts at zero and
    would hardly change. The weight decay is decoupled, as in Keras, and therefore not scaled.
    """

    def _scalars(self, lr: tf.Tensor, count: tf.Tensor) -> Slots:
        return (
            lr,
            1.0 / one_minus_power(self.beta1, count),
            1.0 / one_minus_power(self.beta2, count),
        )

    def _change(
        self, value: tf.Tensor, grad: tf.Tensor, slots: Slots, scalars: Slots, weight: bool
    ) -> tuple[tf.Tensor, Slots]:
        lr, correct_m, correct_v = scalars
        m, v = self._moments(grad, slots)
        update = m * correct_m / (tf.sqrt(v * correct_v) + self.eps)
        if weight:
            value_norm, update_norm = norm(value), norm(update)
            lr = lr * tf.where(
                (value_norm > 0.0) & (update_norm > 0.0), value_norm / update_norm, 1.0
            )
        return lr * update, (m, v)
