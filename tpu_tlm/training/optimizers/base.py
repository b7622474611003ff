"""The interface of an optimizer: values, gradients and slots in, new values and slots out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from tpu_tlm.config import OptimConfig

Slots = tuple[tf.Tensor, ...]
Shape = Sequence[int]

_NO_DECAY_NAMES = ("bias", "gamma", "beta")


def decays(path: str, shape: Shape) -> bool:
    """Whether weight decay applies to the variable `path` ("block_0/ffn/kernel") of this shape.

    It does not apply to vectors and scalars, nor to biases and norm parameters of higher rank (a
    fused QKV bias, stacked layers), which the last part of the path identifies.
    """
    last = path.rsplit("/", 1)[-1].split(":")[0].lower()
    return len(shape) >= 2 and not last.endswith(_NO_DECAY_NAMES)


def one_minus_power(base: float, exponent: tf.Tensor) -> tf.Tensor:
    """1 - base**exponent for 0 <= base < 1, float32.

    Computed with expm1: 1 - 0.999**1 in float32 has five correct digits.
    """
    return tf.ones_like(exponent) if base == 0.0 else -tf.math.expm1(exponent * math.log(base))


def root_mean_square(x: tf.Tensor) -> tf.Tensor:
    """Root of the mean square of all elements, a scalar."""
    return tf.sqrt(tf.reduce_mean(tf.square(x)))


def norm(x: tf.Tensor) -> tf.Tensor:
    """Euclidean norm of all elements, a scalar."""
    return tf.sqrt(tf.reduce_sum(tf.square(x)))


class Optimizer:
    """An update rule. It holds hyper-parameters only; tensors are arguments and results.

    Weight decay is decoupled: before the update, values with decay are multiplied by
    1 - lr * weight_decay.
    """

    def __init__(self, weight_decay: float = 0.0) -> None:
        self.weight_decay = weight_decay

    @classmethod
    def from_config(cls, config: OptimConfig) -> Optimizer:
        """Create the optimizer from the options."""
        return cls(config.weight_decay)

    def slots_of(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the float32 slots of a value of this shape."""
        return {}

    def slot_names(self, shape: Shape) -> tuple[str, ...]:
        """Names of the slots of a value of this shape, in the order of `apply`."""
        return tuple(self.slots_of(shape))

    def init_slots(self, values: Sequence[tf.Tensor]) -> list[Slots]:
        """The slots before the first update: float32 zeros, one tuple per value."""
        return [
            tuple(
                tf.zeros(shape, tf.float32)
                for shape in self.slots_of(value.shape.as_list()).values()
            )
            for value in values
        ]

    def apply(
        self,
        values: Sequence[tf.Tensor],
        grads: Sequence[tf.Tensor],
        slots: Sequence[Slots],
        *,
        lr: tf.Tensor,
        step: tf.Tensor,
        decay_mask: Sequence[bool],
    ) -> tuple[list[tf.Tensor], list[Slots]]:
        """One update: (new values, new slots), in the given order.

        values: float32, static shapes; grads: the same shapes, any float type; lr: float32 scalar;
        step: integer scalar, 0 for the first update; decay_mask: `decays` of each value. Raises
        ValueError when the lists differ in length.
        """
        scalars = self._scalars(tf.cast(lr, tf.float32), tf.cast(step, tf.float32) + 1.0)
        kept = 1.0 - tf.cast(lr, tf.float32) * self.weight_decay
        new_values: list[tf.Tensor] = []
        new_slots: list[Slots] = []
        for value, grad, old, decay in zip(values, grads, slots, decay_mask, strict=True):
            if decay and self.weight_decay:
                value = value * kept
            change, new = self._change(
                value, tf.cast(tf.convert_to_tensor(grad), tf.float32), old, scalars, decay
            )
            new_values.append(value - change)
            new_slots.append(new)
        return new_values, new_slots

    def _scalars(self, lr: tf.Tensor, count: tf.Tensor) -> Slots:
        """Scalars that an update computes once; count: float32, 1 for the first update."""
        return (lr, count)

    def _change(
        self, value: tf.Tensor, grad: tf.Tensor, slots: Slots, scalars: Slots, weight: bool
    ) -> tuple[tf.Tensor, Slots]:
        """The difference to subtract from a value, and its new slots.

        scalars: from `_scalars`; weight: false for norms and biases.
        """
        raise NotImplementedError
