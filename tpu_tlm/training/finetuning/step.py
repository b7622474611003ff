"""Per-variable learning rates and frozen variables, around the training step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from tpu_tlm.objectives.base import Batch, LossSums
from tpu_tlm.objectives.replicas import ALONE, Replicas
from tpu_tlm.tasks.model import HEAD
from tpu_tlm.training.optimizers import Optimizer
from tpu_tlm.training.step import TrainStep

_BLOCK = re.compile(r"encoder/(\d+)/")


def depth_of(path: str, layers: int) -> int:
    """0 for embeddings, 1 for the lowest block, `layers` + 1 for the head and the last norm."""
    if path.startswith("embeddings/"):
        return 0
    found = _BLOCK.match(path)
    if found:
        return int(found[1]) + 1
    return layers + 1


def learning_rates(
    paths: Sequence[str], layers: int, *, layer_decay: float, head: float, freeze: int
) -> list[float]:
    """Share of the peak learning rate for each variable; 0 = frozen.

    layer_decay: of each block, as a share of that of the block above. head: of the head. freeze:
    embeddings and blocks below this one are frozen; 0 = none.
    """
    found = []
    for path in paths:
        depth = depth_of(path, layers)
        if path.startswith(HEAD):
            found.append(head)
        elif freeze and depth <= freeze:
            found.append(0.0)
        else:
            found.append(layer_decay ** (layers + 1 - depth))
    return found


class ScaledOptimizer(Optimizer):
    """An optimizer whose learning rate is scaled for each value; scale 0 leaves it as it is."""

    def __init__(self, inner: Optimizer, scales: Sequence[float]) -> None:
        super().__init__(inner.weight_decay)
        self.inner, self.scales = inner, list(scales)

    def slots_of(self, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
        return self.inner.slots_of(shape)

    def apply(
        self,
        values: Sequence[tf.Tensor],
        grads: Sequence[tf.Tensor],
        slots: Sequence[tuple[tf.Tensor, ...]],
        *,
        lr: tf.Tensor,
        step: tf.Tensor,
        decay_mask: Sequence[bool],
    ) -> tuple[list[tf.Tensor], list[tuple[tf.Tensor, ...]]]:
        new_values, new_slots = list(values), list(slots)
        for scale in sorted(set(self.scales) - {0.0}):
            at = [i for i, own in enumerate(self.scales) if own == scale]
            changed, changed_slots = self.inner.apply(
                [values[i] for i in at],
                [grads[i] for i in at],
                [slots[i] for i in at],
                lr=tf.cast(lr, tf.float32) * scale,
                step=step,
                decay_mask=[decay_mask[i] for i in at],
            )
            for i, value, slot in zip(at, changed, changed_slots, strict=True):
                new_values[i], new_slots[i] = value, slot
        return new_values, new_slots


@dataclass(frozen=True)
class TaskStep(TrainStep):
    """A training step in which some variables are constants: no gradient reaches them, none of
    theirs counts in the norm, and the compiler drops their backward pass.

    frozen: for each variable whether it is one.
    """

    frozen: tuple[bool, ...] = ()

    def sums(
        self,
        values: Sequence[tf.Tensor],
        batch: Batch,
        *,
        training: bool,
        replicas: Replicas = ALONE,
    ) -> LossSums:
        held = self.frozen or (False,) * len(values)
        values = [
            tf.stop_gradient(value) if own else value
            for value, own in zip(values, held, strict=True)
        ]
        return super().sums(values, batch, training=training, replicas=replicas)
