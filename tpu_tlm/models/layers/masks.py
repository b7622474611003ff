"""Who may look at whom: padding, causal, window and segment masks, all bool, true where looking is allowed."""

from __future__ import annotations

import tensorflow as tf

# What a score is replaced by where attention is not allowed: large against any score, finite in float32 and bfloat16.
MASKED = -1e9


def offsets(length: int, keys: int, start: tf.Tensor | int = 0) -> tf.Tensor:
    """Place of the key minus place of the query: int32 `[length, keys]`; the first query stands at `start`, the first key at 0."""
    return (
        tf.range(keys, dtype=tf.int32)[None, :]
        - (tf.range(length, dtype=tf.int32) + start)[:, None]
    )


def both(first: tf.Tensor | None, second: tf.Tensor | None) -> tf.Tensor | None:
    """What two masks allow together; None allows everything."""
    if first is None or second is None:
        return second if first is None else first
    return tf.logical_and(first, second)


def padding_mask(x: tf.Tensor, pad_id: int) -> tf.Tensor:
    """Ids int `[B, S]` -> bool `[B, 1, 1, S]`, false at padding keys."""
    return tf.not_equal(x, pad_id)[:, None, None, :]


def causal_mask(length: int, keys: int, start: tf.Tensor | int = 0) -> tf.Tensor:
    """Bool `[1, 1, length, keys]`, false at keys behind the query."""
    return (offsets(length, keys, start) <= 0)[None, None]


def window_mask(length: int, keys: int, reach: int, start: tf.Tensor | int = 0) -> tf.Tensor:
    """Bool `[length, keys]`, false at keys more than `reach` away."""
    return tf.abs(offsets(length, keys, start)) <= reach


def segments_of(x: tf.Tensor, end_id: int) -> tf.Tensor:
    """Number of the segment that each token belongs to, int32 `[B, T]`: a segment ends with `end_id`, which is part of it."""
    return tf.cumsum(tf.cast(tf.equal(x, end_id), tf.int32), axis=1, exclusive=True)


def segment_mask(queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Segment numbers int `[B, T]` and `[B, S]` -> bool `[B, 1, T, S]`, false between different segments."""
    return tf.equal(queries[:, None, :, None], keys[:, None, None, :])
