"""Optimizer state divided among the replicas of a run (ZeRO-1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from tpu_tlm.objectives.replicas import Replicas
from tpu_tlm.training.optimizers.base import Shape

# A TPU stores the last two dimensions of an array in tiles of this size.
_TILE = (8, 128)


@dataclass(frozen=True)
class Sharding:
    """How the state of an optimizer is divided among `count` replicas: stage 1 of ZeRO (Rajbhandari
    et al., arXiv 1910.02054).

    Every replica keeps the slots of one share of each value, updates that share, and receives the
    other shares. A share is a range along one axis, the same size on every replica, so that the
    last ones may be padded with zeros. Values of which a share would be smaller than a tile of a
    TPU's memory (most biases and norms) are not divided. `count` 1 divides nothing.
    """

    count: int = 1

    def axis(self, shape: Shape) -> int | None:
        """The axis along which a value of this shape is divided, None if it is not.

        The one whose shares take the least memory, with the padding of tiles.
        """
        if self.count == 1 or math.prod(shape) < self.count * math.prod(_TILE):
            return None
        return min(range(len(shape)), key=lambda axis: _tiled(self._share(shape, axis)))

    def share(self, shape: Shape) -> tuple[int, ...]:
        """The shape of a replica's share of a value."""
        axis = self.axis(shape)
        return tuple(shape) if axis is None else self._share(shape, axis)

    def _share(self, shape: Shape, axis: int) -> tuple[int, ...]:
        found = list(shape)
        found[axis] = -(-shape[axis] // self.count)
        return tuple(found)

    def own(self, value: tf.Tensor, replica: tf.Tensor | int) -> tf.Tensor:
        """The share of replica number `replica` (int32) of a value."""
        shape = value.shape.as_list()
        axis = self.axis(shape)
        if axis is None:
            return value
        share = self._share(shape, axis)
        begin = [tf.constant(0)] * len(shape)
        begin[axis] = tf.cast(replica, tf.int32) * share[axis]
        padded = _padded(value, axis, self.count * share[axis])
        return tf.ensure_shape(tf.slice(padded, tf.stack(begin), share), share)

    def whole(
        self, shares: Sequence[tf.Tensor], shapes: Sequence[Shape], replicas: Replicas
    ) -> list[tf.Tensor]:
        """All-gather: the values of these shapes from the shares of all replicas.

        Implemented, like `Replicas.gather`, as a sum of tables that are zero elsewhere.
        """
        axes = [self.axis(shape) for shape in shapes]
        divided = [i for i, axis in enumerate(axes) if axis is not None]
        found = list(shares)
        if not divided:
            return found
        here = tf.equal(tf.range(self.count), tf.cast(replicas.index, tf.int32))
        tables = []
        for i in divided:
            share, axis = shares[i], axes[i]
            assert axis is not None
            mask = tf.reshape(
                here, [self.count if n == axis else 1 for n in range(len(shapes[i]) + 1)]
            )
            # Selected, not multiplied: padding may be NaN, where eps is 0.
            tables.append(tf.where(mask, tf.expand_dims(share, axis), tf.zeros([], share.dtype)))
        for i, table in zip(divided, replicas.all_reduce(tables), strict=True):
            found[i] = self.joined(table, shapes[i])
        return found

    def joined(self, shares: tf.Tensor, shape: Shape) -> tf.Tensor:
        """The value of this shape from its shares, which are stacked at its axis."""
        axis = self.axis(shape)
        assert axis is not None
        padded = list(shape)
        padded[axis] = self.count * self._share(shape, axis)[axis]
        return tf.slice(tf.reshape(shares, padded), [0] * len(shape), list(shape))


def _padded(value: tf.Tensor, axis: int, size: int) -> tf.Tensor:
    missing = size - value.shape[axis]
    if not missing:
        return value
    return tf.pad(value, [[0, missing if n == axis else 0] for n in range(len(value.shape))])


def _tiled(shape: Shape) -> int:
    """Elements of an array on a TPU, with padding."""
    last = [*[1] * (len(_TILE) - len(shape)), *shape]
    tiles = [-(-n // t) * t for n, t in zip(last[-2:], _TILE, strict=True)]
    return math.prod([*last[:-2], *tiles])
