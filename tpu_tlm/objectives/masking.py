"""Choice of masked positions on the device: a static number, by token, whole word or span."""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from tpu_tlm.config import MlmConfig
from tpu_tlm.models.layers.counter_rng import Key

# Bits of a sort key that hold the position; the rest are noise. Longer examples are refused.
_POSITION_BITS = 13
_NOISE_BITS = 31 - _POSITION_BITS


class Chosen(NamedTuple):
    """`positions` int32 `[rows, N]`, distinct per row; `weights` float32 `[rows, N]`, 1 where a
    position is predicted and 0 where it only fills the row."""

    positions: tf.Tensor
    weights: tf.Tensor


def static_count(rate: float, length: int) -> int:
    """Largest number of masked positions per example: rate * length, rounded up."""
    return max(1, math.ceil(rate * length - 1e-9))


def word_starts(packed: tf.Tensor, length: int) -> tf.Tensor:
    """Unpack little-endian bits uint8 `[rows, ceil(length / 8)]` to bool `[rows, length]`."""
    bits = tf.bitwise.right_shift(
        packed[:, :, None], tf.constant(list(range(8)), tf.uint8)[None, None, :]
    )
    flat = tf.reshape(tf.bitwise.bitwise_and(bits, tf.constant(1, tf.uint8)), (packed.shape[0], -1))
    return flat[:, :length] > 0


def _last_start(starts: tf.Tensor) -> tf.Tensor:
    """Position of the last start at or before each position, 0 if none: int32 `[rows, T]`."""
    length = starts.shape[1]
    places = tf.where(starts, tf.range(length, dtype=tf.int32)[None, :], 0)
    # A running maximum by doubling: log2(T) static steps.
    shift = 1
    while shift < length:
        places = tf.maximum(places, tf.pad(places, ((0, 0), (shift, 0)))[:, :length])
        shift *= 2
    return places


def units_of(starts: tf.Tensor, mode: str, config: MlmConfig, key: Key) -> tf.Tensor:
    """First position of each position's unit, which is masked as a whole: int32 `[rows, T]`.

    `starts`: bool `[rows, T]`, word starts. `mode`: token, whole-word or span. A word start begins
    a new span with probability 1 / span_mean, which gives geometric lengths (SpanBERT, arXiv
    1907.10529), and after span_max words in any case.
    """
    length = starts.shape[1]
    if mode == "token":
        return tf.broadcast_to(tf.range(length, dtype=tf.int32), starts.shape)
    if mode == "span":
        drawn = tf.logical_and(starts, key.fold("span").uniform(length) < 1.0 / config.span_mean)
        word = tf.cumsum(tf.cast(starts, tf.int32), axis=1)
        since = word - tf.gather(word, _last_start(drawn), batch_dims=1)
        starts = tf.logical_and(starts, tf.logical_or(drawn, since % config.span_max == 0))
    return _last_start(starts)


def choose(maskable: tf.Tensor, units: tf.Tensor, rate: float, key: Key) -> Chosen:
    """Choose whole units at random until `rate` of the maskable positions is reached.

    `maskable`: bool `[rows, T]`; `units`: int32 `[rows, T]` from `units_of`. Every example with a
    maskable position gets at least one. A unit that would exceed the limit is left out, unless it
    is the first: then its first positions are chosen. Raises ValueError for T > 8192.
    """
    rows, length = maskable.shape
    if length > 1 << _POSITION_BITS:
        raise ValueError(
            f"examples of {length} tokens are too long for masking; at most {1 << _POSITION_BITS}"
        )
    count = static_count(rate, length)
    noise = tf.cast(
        tf.bitwise.right_shift(
            key.fold("mask").bits(length), tf.constant(32 - _NOISE_BITS, tf.uint32)
        ),
        tf.int32,
    )
    # Positions of a unit share its noise and are ordered by position within it, so that a unit is
    # contiguous in the order.
    noise = tf.gather(noise, units, batch_dims=1)
    places = tf.range(length, dtype=tf.int32)
    order = tf.bitwise.bitwise_or(
        tf.bitwise.left_shift(noise, _POSITION_BITS), (1 << _POSITION_BITS) - 1 - places
    )
    order = tf.where(maskable, order, -1)
    ranked, positions = tf.math.top_k(order, k=min(count + 1, length))
    available = tf.reduce_sum(tf.cast(maskable, tf.float32), axis=1)
    wanted = tf.clip_by_value(tf.cast(tf.round(rate * available), tf.int32), 1, count)[:, None]
    rank = tf.range(positions.shape[1], dtype=tf.int32)[None, :]
    taken = tf.logical_and(rank < wanted, ranked >= 0)
    # The unit of the first position beyond the limit is left out if it starts before the limit.
    unit = tf.where(ranked >= 0, tf.gather(units, positions, batch_dims=1), -1)
    beyond = tf.reduce_max(tf.where(rank == wanted, unit, -1), axis=1, keepdims=True)
    whole = tf.logical_and(taken, unit != beyond)
    taken = tf.where(tf.reduce_any(whole, axis=1, keepdims=True), whole, taken)
    return Chosen(positions[:, :count], tf.cast(taken[:, :count], tf.float32))
