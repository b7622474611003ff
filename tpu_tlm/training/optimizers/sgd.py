"""Stochastic gradient descent."""

from __future__ import annotations

import tensorflow as tf

from tpu_tlm.config import OptimConfig
from tpu_tlm.training.optimizers.base import Optimizer, Shape, Slots


class Sgd(Optimizer):
    """Gradient descent with momentum.

    velocity = momentum * velocity + lr * gradient; value -= velocity. Slot: velocity, without one
    where momentum is 0.
    """

    def __init__(self, momentum: float, weight_decay: float = 0.0) -> None:
        super().__init__(weight_decay)
        self.momentum = momentum

    @classmethod
    def from_config(cls, config: OptimConfig) -> Sgd:
        return cls(config.beta1, config.weight_decay)

    def slots_of(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        return {"velocity": tuple(shape)} if self.momentum else {}

    def _change(
        self, value: tf.Tensor, grad: tf.Tensor, slots: Slots, scalars: Slots, weight: bool
    ) -> tuple[tf.Tensor, Slots]:
        change = scalars[0] * grad
        if not self.momentum:
            return change, ()
        velocity = slots[0] * self.momentum + change
        return velocity, (velocity,)
