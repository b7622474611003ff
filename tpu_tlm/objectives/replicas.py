"""What an objective may know of the other replicas: their number, and a gather through which gradients flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

AllReduce = Callable[[list[tf.Tensor]], list[tf.Tensor]]


def _alone(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    return tensors


@dataclass(frozen=True)
class Replicas:
    """The replicas that share a batch. `count`: how many; `index`: this one (int32 scalar); `all_reduce`: sums tensors over them.

    `all_reduce` must be differentiable where gradients have to flow (its gradient is itself: every replica's loss is part of the sum).
    """

    count: int = 1
    index: tf.Tensor | int = 0
    all_reduce: AllReduce = _alone

    def gather(self, tensor: tf.Tensor) -> tf.Tensor:
        """Everybody's rows in the order of the replicas: `[rows, ...] -> [count * rows, ...]`.

        Its gradient adds up what all replicas' losses ask of this replica's rows. Made of a sum of zero-filled tables, which every
        strategy, and the ahead-of-time compiler, has.
        """
        if self.count == 1:
            return tensor
        here = tf.one_hot(self.index, self.count, dtype=tensor.dtype)
        table = tf.reshape(here, (self.count, *[1] * len(tensor.shape))) * tensor[None]
        (everybody,) = self.all_reduce([table])
        return tf.reshape(everybody, (self.count * tensor.shape[0], *tensor.shape[1:]))


ALONE = Replicas()
