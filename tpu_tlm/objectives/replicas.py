"""Communication between the replicas of a batch inside an objective, differentiable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

AllReduce = Callable[[list[tf.Tensor]], list[tf.Tensor]]


def _alone(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    return tensors


@dataclass(frozen=True)
class Replicas:
    """The replicas that share a batch.

    `count`: their number; `index`: this replica's, int32 scalar; `all_reduce`: sums tensors over
    replicas. `all_reduce` must be differentiable where gradients flow through it; its gradient is
    itself, since every replica's loss is part of the sum.
    """

    count: int = 1
    index: tf.Tensor | int = 0
    all_reduce: AllReduce = _alone

    def gather(self, tensor: tf.Tensor) -> tf.Tensor:
        """All-gather rows in the order of the replicas: `[rows, ...] -> [count * rows, ...]`.

        The gradient sums the gradients of all replicas' losses for this replica's rows. Implemented
        as a sum of zero-filled tables, which every strategy and the ahead-of-time compiler support.
        """
        if self.count == 1:
            return tensor
        here = tf.one_hot(self.index, self.count, dtype=tensor.dtype)
        table = tf.reshape(here, (self.count, *[1] * len(tensor.shape))) * tensor[None]
        (gathered,) = self.all_reduce([table])
        return tf.reshape(gathered, (self.count * tensor.shape[0], *tensor.shape[1:]))


ALONE = Replicas()


def of_strategy() -> Replicas:
    """The replicas of the strategy in whose replica function this is called."""
    context = tf.distribute.get_replica_context()

    def all_reduce(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        summed: list[tf.Tensor] = context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)
        return summed

    return Replicas(context.num_replicas_in_sync, context.replica_id_in_sync_group, all_reduce)
