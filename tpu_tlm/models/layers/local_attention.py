"""Blocks of queries with the keys in their reach, for attention with a window."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

# Block lengths are multiples of the matrix unit's rows.
TILE = 128


@dataclass(frozen=True)
class Blocks:
    """How `length` positions are split: `count` blocks of `size` queries, `reach` keys around each.

    The keys of block i are those of the positions i * size - reach to (i + 1) * size + reach - 1.
    `size` is at least 2 * reach, so that they are in two neighbouring blocks of the padded keys.
    """

    length: int
    reach: int
    size: int

    @property
    def count(self) -> int:
        return -(-self.length // self.size)

    @property
    def keys(self) -> int:
        """Keys per block."""
        return self.size + 2 * self.reach

    def queries(self, x: tf.Tensor) -> tf.Tensor:
        """`[B, h, T, k] -> [B, h * count, size, k]`, zeros after the text."""
        padded = tf.pad(x, ((0, 0), (0, 0), (0, self.count * self.size - self.length), (0, 0)))
        return tf.reshape(padded, (-1, x.shape[1] * self.count, self.size, x.shape[3]))

    def around(self, x: tf.Tensor) -> tf.Tensor:
        """Keys or values of each block, `[B, h, T, k] -> [B, h * count, keys, k]`.

        Zeros outside the text.
        """
        heads, width = x.shape[1], x.shape[3]
        after = (self.count + 1) * self.size - self.length - self.reach
        padded = tf.pad(x, ((0, 0), (0, 0), (self.reach, after), (0, 0)))
        split = tf.reshape(padded, (-1, heads, self.count + 1, self.size, width))
        both = tf.concat([split[:, :, :-1], split[:, :, 1:, : 2 * self.reach]], axis=3)
        return tf.reshape(both, (-1, heads * self.count, self.keys, width))

    def join(self, x: tf.Tensor) -> tf.Tensor:
        """Outputs of the queries back in one text: `[B, h * count, size, k] -> [B, h, T, k]`."""
        heads = x.shape[1] // self.count
        joined = tf.reshape(x, (-1, heads, self.count * self.size, x.shape[3]))
        return joined[:, :, : self.length]

    def positions(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Positions in the text, int32: queries `[count, size, 1]` and keys `[count, 1, keys]`."""
        first = tf.range(self.count)[:, None] * self.size
        queries = first + tf.range(self.size)[None]
        return queries[:, :, None], (first + tf.range(-self.reach, self.size + self.reach))[:, None]

    def numbers(self, first: int, count: int) -> tf.Tensor:
        """Number, in `[h, T, T]`, of each pair of `count` blocks, `first` of `h * count` the first.

        Int32 `[count, size, keys]`; pairs with a position outside the text have any number.
        """
        index = tf.range(first, first + count)[:, None, None]
        start = index % self.count * self.size
        queries = start + tf.range(self.size)[:, None]
        keys = start + tf.range(-self.reach, self.size + self.reach)
        return (index // self.count * self.length + queries) * self.length + keys

    def window(self) -> tf.Tensor:
        """Which keys of the text a query reaches: bool `[count, size, keys]`."""
        queries, keys = self.positions()
        inside = tf.logical_and(keys >= 0, keys < self.length)
        return tf.logical_and(tf.abs(keys - queries) <= self.reach, inside)

    def mask(self, attention_mask: tf.Tensor | None, heads: int) -> tf.Tensor:
        """The window and a mask that broadcasts to `[B, h, T, T]`, by block.

        Bool, broadcasts to `[B, h * count, size, keys]`.
        """
        mask = self.window()[None, None]
        if attention_mask is not None:
            mask = tf.logical_and(mask, self._by_block(attention_mask))
        shape = tf.shape(mask)
        mask = tf.broadcast_to(mask, tf.concat([shape[:1], [heads], shape[2:]], axis=0))
        return tf.reshape(mask, (-1, heads * self.count, self.size, self.keys))

    def _by_block(self, mask: tf.Tensor) -> tf.Tensor:
        """A mask that broadcasts to `[B, h, T, T]` -> one to `[B, h, count, size, keys]`."""
        mask = mask[(None,) * (4 - len(mask.shape)) + (...,)]
        mask = tf.logical_and(mask, tf.ones((1, self.length), tf.bool))
        heads, rows = mask.shape[1], mask.shape[2]
        after = (self.count + 1) * self.size - self.length - self.reach
        below = self.count * self.size - rows if rows > 1 else 0
        padded = tf.pad(mask, ((0, 0), (0, 0), (0, below), (self.reach, after)))
        if rows == 1:
            split = tf.reshape(padded, (-1, heads, self.count + 1, self.size))
            both = tf.concat([split[:, :, :-1], split[:, :, 1:, : 2 * self.reach]], axis=-1)
            return both[:, :, :, None]
        size = self.size
        return tf.stack(
            [
                padded[:, :, i * size : (i + 1) * size, i * size : i * size + self.keys]
                for i in range(self.count)
            ],
            axis=2,
        )


def blocks_of(length: int, reach: int | None) -> Blocks | None:
    """The blocks for a window of `reach` positions to each side; None where they save nothing."""
    if reach is None:
        return None
    blocks = Blocks(length, reach, TILE * -(-2 * reach // TILE))
    return blocks if length > blocks.keys else None
