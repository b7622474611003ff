"""Counter-based random numbers: each is a hash of (seed, site, example position, element)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import tensorflow as tf

from tpu_tlm.models.layers.shared import constant, shared

# Multipliers of the "lowbias32" finalizer (Wellons, hash-prospector: bias 0.17 per 32-bit
# avalanche test) and the golden ratio in 32 bits.
_M1, _M2, _GOLDEN = 0x7FEB352D, 0x846CA68B, 0x9E3779B9


def _u32(value: int) -> tf.Tensor:
    return constant(value & 0xFFFFFFFF, tf.uint32)


def _numbers(shape: Sequence[int]) -> tf.Tensor:
    """The elements of a shape numbered row by row: int32 `[*shape]`."""
    shape = tuple(shape)
    return shared(
        ("numbers", shape),
        lambda: tf.reshape(tf.range(math.prod(shape), dtype=tf.int32), shape),
    )


def _xor_shift(h: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(h, tf.bitwise.right_shift(h, _u32(bits)))


def _mix(h: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """A 32-bit finalizer that takes a second key word half-way, so that streams do not align."""
    h = _xor_shift(h, 16) * _u32(_M1) + second
    h = _xor_shift(h, 15) * _u32(_M2)
    return _xor_shift(h, 16)


class Key:
    """Two uint32 words per example from which layers draw; `fold` derives the key of a site.

    The words depend on the run's seed and the example's position in the run, not on the replica or
    the row of the batch. So dropout and masks of an example are the same for any number of
    replicas, hosts or micro-batches, repeat after a restart, and do not repeat within a run. The
    hash is a few integer operations, which XLA fuses into their consumer; it needs no state and is
    not cryptographic.
    """

    def __init__(self, first: tf.Tensor, second: tf.Tensor) -> None:
        self.first, self.second = first, second

    @classmethod
    def of(cls, seed: int, position: tf.Tensor) -> Key:
        """The key of each example. `position`: int64 `[rows]`."""
        low = tf.cast(
            tf.bitwise.bitwise_and(position, tf.constant(0xFFFFFFFF, tf.int64)), tf.uint32
        )
        high = tf.cast(tf.bitwise.right_shift(position, tf.constant(32, tf.int64)), tf.uint32)
        low_seed, high_seed = _u32(seed), _u32(seed >> 32)
        first = _mix(_mix(low * _u32(_GOLDEN) + low_seed, high), high_seed)
        second = _mix(_mix(low + _u32(_GOLDEN), low_seed), high + high_seed)
        return cls(first, second)

    @classmethod
    def from_seed(cls, seed: tf.Tensor, rows: tf.Tensor) -> Key:
        """The key of each of `rows` rows (int32 scalar) of a batch.

        `seed`: integers `[2]`, such as a Keras `SeedGenerator` gives, new for every batch.
        """
        words = tf.cast(tf.bitwise.bitwise_and(tf.cast(seed, tf.int64), 0xFFFFFFFF), tf.uint32)
        row = tf.cast(tf.range(rows), tf.uint32)
        first = _mix(_mix(row * _u32(_GOLDEN) + words[0], words[1]), words[0])
        return cls(first, _mix(_mix(row + _u32(_GOLDEN), words[1]), words[0]))

    def of_rows(self, rows: slice) -> Key:
        """The key of some of the rows."""
        return Key(self.first[rows], self.second[rows])

    def fold(self, site: str | int | tf.Tensor) -> Key:
        """An independent key for a named or numbered site."""
        if isinstance(site, tf.Tensor):
            salt = tf.cast(site, tf.uint32) * _u32(_GOLDEN) + _u32(1)
        else:
            number = zlib.crc32(site.encode()) if isinstance(site, str) else site
            salt = _u32(number * _GOLDEN + 1)
        return Key(
            _mix(self.first + salt, self.second),
            _mix(tf.bitwise.bitwise_xor(self.second, salt), self.first),
        )

    def bits(self, *shape: int) -> tf.Tensor:
        """Uniform uint32 `[rows, *shape]`."""
        return self.bits_at(_numbers(shape))

    def bits_at(self, numbers: tf.Tensor) -> tf.Tensor:
        """The bits of the elements with these numbers: int32 `[...]` -> uint32 `[rows, ...]`.

        `bits` gives the elements of a shape, numbered row by row.
        """
        counter = shared(
            ("counter", numbers.ref()),
            lambda: tf.expand_dims(tf.cast(numbers, tf.uint32), 0) * _u32(_GOLDEN),
        )
        words = constant((-1, *(1 for _ in numbers.shape)), tf.int32)
        return _mix(
            tf.bitwise.bitwise_xor(counter, tf.reshape(self.first, words)),
            tf.reshape(self.second, words),
        )

    def uniform(self, *shape: int) -> tf.Tensor:
        """Uniform float32 in [0, 1) `[rows, *shape]`, 24 random bits each."""
        return tf.cast(tf.bitwise.right_shift(self.bits(*shape), _u32(8)), tf.float32) * 2.0**-24

    def gumbel(self, *shape: int) -> tf.Tensor:
        """Standard Gumbel noise, float32 `[rows, *shape]`, always finite.

        The argmax of logits plus this noise is a sample of their softmax. It is -log(-log(1 - v))
        of a v made from all 32 bits: the large values, which decide, come from small v, where
        float32 is fine. (From a uniform number near 1 they would be coarse, and infinite once in
        2**24 draws.)
        """
        v = (tf.cast(self.bits(*shape), tf.float32) + 0.5) * 2.0**-32
        return -tf.math.log(-tf.math.log1p(-tf.minimum(v, 1.0 - 2.0**-24)))

    def below(self, limit: int, *shape: int) -> tf.Tensor:
        """Uniform int32 in [0, limit) `[rows, *shape]`; limit up to 2**24."""
        return tf.minimum(tf.cast(self.uniform(*shape) * float(limit), tf.int32), limit - 1)


def dropout_mask(rate: float, key: Key | None, site: str, shape: Sequence[int]) -> tf.Tensor | None:
    """Boolean keep mask for dropout at `site`, `[rows, *shape]`; None (keep all) without a key.

    None at rate 0 too. Raises ValueError for a rate outside [0, 1).
    """
    return dropout_mask_at(rate, key, site, _numbers(shape))


def dropout_mask_at(
    rate: float, key: Key | None, site: str, numbers: tf.Tensor
) -> tf.Tensor | None:
    """The same for some elements, by their numbers int32 `[...]` (row by row): `[rows, ...]`."""
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"dropout rate {rate} is not in [0, 1)")
    if key is None or rate == 0.0:
        return None
    return key.fold(site).bits_at(numbers) >= _u32(round(rate * 2.0**32))


def dropout(x: tf.Tensor, rate: float, key: Key | None, site: str) -> tf.Tensor:
    """Inverted dropout of x `[rows, ...]` with the mask of `site`; identity without a key."""
    keep = dropout_mask(rate, key, site, x.shape[1:])
    return (
        x
        if keep is None
        else tf.where(keep, x * constant(1.0 / (1.0 - rate), x.dtype), constant(0.0, x.dtype))
    )
