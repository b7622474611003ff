"""Optimizers as pure functions on tensors: values, gradients and slots in, new values and slots out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from tpu_tlm.config import OptimConfig
from tpu_tlm.errors import UsageError

Slots = tuple[tf.Tensor, ...]
Shape = Sequence[int]

_NO_DECAY_NAMES = ("bias", "gamma", "beta")


def decays(path: str, shape: Shape) -> bool:
    """Whether weight decay applies to the variable `path` ("block_0/ffn/kernel") of this shape: not to norms and biases.

    Vectors and scalars never decay; neither do biases and norm parameters of higher rank (a fused QKV bias, stacked layers),
    which the last part of the path tells.
    """
    last = path.rsplit("/", 1)[-1].split(":")[0].lower()
    return len(shape) >= 2 and not last.endswith(_NO_DECAY_NAMES)


def _one_minus_power(base: float, exponent: tf.Tensor) -> tf.Tensor:
    """1 - base**exponent for 0 <= base < 1, float32; through expm1, since 1 - 0.999**1 in float32 has five digits only."""
    return tf.ones_like(exponent) if base == 0.0 else -tf.math.expm1(exponent * math.log(base))


def _root_mean_square(x: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(tf.reduce_mean(tf.square(x)))


def _norm(x: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(tf.reduce_sum(tf.square(x)))


class Optimizer:
    """One update rule: it keeps hyper-parameters only, every tensor comes in and goes out.

    Weight decay is decoupled: before the rule, a value that decays is multiplied by 1 - lr * weight_decay.
    """

    def __init__(self, weight_decay: float = 0.0) -> None:
        self.weight_decay = weight_decay

    def slots_of(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the float32 slots that a value of this shape needs."""
        return {}

    def slot_names(self, shape: Shape) -> tuple[str, ...]:
        """Names of the slots of a value of this shape, in the order in which `apply` takes and returns them."""
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

        values: float32, static shapes; grads: the same shapes, any float type; lr: float32 scalar; step: integer scalar,
        0 for the first update; decay_mask: `decays` of each value. ValueError when the lists differ in length.
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
        """What one update computes once for all values; count: float32, 1 for the first update."""
        return (lr, count)

    def _change(
        self, value: tf.Tensor, grad: tf.Tensor, slots: Slots, scalars: Slots, weight: bool
    ) -> tuple[tf.Tensor, Slots]:
        """What is subtracted from the value, and the new slots; weight: False for norms and biases."""
        raise NotImplementedError


class Adam(Optimizer):
    """Adam (Kingma & Ba, 2015) with eps added to the uncorrected root, as in Keras; AdamW when weight_decay is set."""

    def __init__(self, beta1: float, beta2: float, eps: float, weight_decay: float = 0.0) -> None:
        super().__init__(weight_decay)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def slots_of(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        return {"m": tuple(shape), "v": tuple(shape)}

    def _moments(self, grad: tf.Tensor, slots: Slots) -> Slots:
        m, v = slots
        return m + (grad - m) * (1.0 - self.beta1), v + (tf.square(grad) - v) * (1.0 - self.beta2)

    def _scalars(self, lr: tf.Tensor, count: tf.Tensor) -> Slots:
        return (
            lr * tf.sqrt(_one_minus_power(self.beta2, count)) / _one_minus_power(self.beta1, count),
        )

    def _change(
        self, value: tf.Tensor, grad: tf.Tensor, slots: Slots, scalars: Slots, weight: bool
    ) -> tuple[tf.Tensor, Slots]:
        m, v = self._moments(grad, slots)
        return scalars[0] * m / (tf.sqrt(v) + self.eps), (m, v)


class Lamb(Adam):
    """LAMB (You et al., 2020): Adam's direction, scaled per weight to the weight's own norm.

    Norms and biases are not scaled, as in the authors' program: a bias starts at zero and would hardly leave it. The decay is
    decoupled, as in Keras, and so outside the scaled part.
    """

    def _scalars(self, lr: tf.Tensor, count: tf.Tensor) -> Slots:
        return (
            lr,
            1.0 / _one_minus_power(self.beta1, count),
            1.0 / _one_minus_power(self.beta2, count),
        )

    def _change(
        self, value: tf.Tensor, grad: tf.Tensor, slots: Slots, scalars: Slots, weight: bool
    ) -> tuple[tf.Tensor, Slots]:
        lr, correct_m, correct_v = scalars
        m, v = self._moments(grad, slots)
        update = m * correct_m / (tf.sqrt(v * correct_v) + self.eps)
        if weight:
            value_norm, update_norm = _norm(value), _norm(update)
            lr = lr * tf.where(
                (value_norm > 0.0) & (update_norm > 0.0), value_norm / update_norm, 1.0
            )
        return lr * update, (m, v)


class Adafactor(Optimizer):
    """Adafactor (Shazeer & Stern, 2018) without momentum: second moments of matrices as a row and a column vector.

    As in Keras, a value's last two dimensions are factored, the step is relative to the value's root mean square, and its size is the
    smaller of lr and 1 / sqrt(count).
    """

    beta2_decay = -0.8
    eps_square = 1e-30
    eps_scale = 1e-3
    clip_threshold = 1.0

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
        update = update / tf.maximum(1.0, _root_mean_square(update) / self.clip_threshold)
        return rho * tf.maximum(self.eps_scale, _root_mean_square(value)) * update, new


class Sgd(Optimizer):
    """Gradient descent with momentum: velocity = momentum * velocity + lr * gradient, which is subtracted."""

    def __init__(self, momentum: float, weight_decay: float = 0.0) -> None:
        super().__init__(weight_decay)
        self.momentum = momentum

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


def make_optimizer(config: OptimConfig) -> Optimizer:
    """The optimizer that the options name; `adam` has no weight decay (that is `adamw`). UsageError for impossible numbers."""
    for name, value in (("beta1", config.beta1), ("beta2", config.beta2)):
        if not 0.0 <= value < 1.0:
            raise UsageError(f"--{name} {value}: must be at least 0 and below 1")
    for name, value in (("weight_decay", config.weight_decay), ("eps", config.eps)):
        if not (math.isfinite(value) and value >= 0.0):
            raise UsageError(f"--{name} {value}: must be a finite number, 0 or more")
    if config.optimizer == "adamw":
        return Adam(config.beta1, config.beta2, config.eps, config.weight_decay)
    if config.optimizer == "adam":
        return Adam(config.beta1, config.beta2, config.eps)
    if config.optimizer == "lamb":
        return Lamb(config.beta1, config.beta2, config.eps, config.weight_decay)
    if config.optimizer == "adafactor":
        return Adafactor(config.weight_decay)
    if config.optimizer == "sgd":
        return Sgd(config.beta1, config.weight_decay)
    raise UsageError(
        f"--optimizer {config.optimizer}: not one of adamw, adam, lamb, adafactor, sgd"
    )


def global_norm(grads: Sequence[tf.Tensor]) -> tf.Tensor:
    """Euclidean norm over all gradients together: float32 scalar, not finite where they are not."""
    return tf.sqrt(
        tf.add_n(
            [tf.reduce_sum(tf.square(tf.cast(tf.convert_to_tensor(g), tf.float32))) for g in grads]
        )
    )


def clip_by_global_norm(
    grads: Sequence[tf.Tensor], clip: float
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Gradients scaled down together to a global norm of at most `clip`, and the norm before (float32 scalar).

    Call it after the sum over replicas. clip <= 0 leaves the gradients alone, and so does a norm that is not finite: the norm
    tells the caller.
    """
    norm = global_norm(grads)
    if clip <= 0.0:
        return list(grads), norm
    scale = tf.where((norm > clip) & tf.math.is_finite(norm), clip / norm, 1.0)
    return [tf.convert_to_tensor(g) * tf.cast(scale, g.dtype) for g in grads], norm
