"""Adam and AdamW."""

from __future__ import annotations

import tensorflow as tf

from tpu_tlm.config import OptimConfig
from tpu_tlm.models.layers.shared import constant
from tpu_tlm.training.optimizers.base import Optimizer, Shape, Slots, one_minus_power


class Adam(Optimizer):
    """Adam (Kingma and Ba, arXiv 1412.6980); AdamW with a weight_decay.

    eps is added to the root of the uncorrected second moment, as in Keras. Slots: m and v.
    """

    def __init__(self, beta1: float, beta2: float, eps: float, weight_decay: float = 0.0) -> None:
        super().__init__(weight_decay)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    @classmethod
    def from_config(cls, config: OptimConfig) -> Adam:
        return cls(config.beta1, config.beta2, config.eps)

    def slots_of(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        return {"m": tuple(shape), "v": tuple(shape)}

    def _moments(self, grad: tf.Tensor, slots: Slots) -> Slots:
        m, v = slots
        share1 = constant(1.0 - self.beta1, tf.float32)
        share2 = constant(1.0 - self.beta2, tf.float32)
        return m + (grad - m) * share1, v + (tf.square(grad) - v) * share2

    def _scalars(self, lr: tf.Tensor, count: tf.Tensor) -> Slots:
        return (
            lr * tf.sqrt(one_minus_power(self.beta2, count)) / one_minus_power(self.beta1, count),
        )

    def _change(
        self, value: tf.Tensor, grad: tf.Tensor, slots: Slots, scalars: Slots, weight: bool
    ) -> tuple[tf.Tensor, Slots]:
        m, v = self._moments(grad, slots)
        return scalars[0] * m / (tf.sqrt(v) + constant(self.eps, tf.float32)), (m, v)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101)."""

    @classmethod
    def from_config(cls, config: OptimConfig) -> AdamW:
        return cls(config.beta1, config.beta2, config.eps, config.weight_decay)
