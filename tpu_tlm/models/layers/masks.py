"""Boolean attention masks (True = attend): padding, causal, local window, segment."""

from __future__ import annotations

import tensorflow as tf

# Replaces a masked score: far below any score, finite in float32 and bfloat16.
MASKED = -1e9


def relative_positions(length: int, keys: int, start: tf.Tensor | int = 0) -> tf.Tensor:
    """Key position minus query position, int32 `[length, keys]`.

    `start`: position of the first query; the first key has position 0.
    """
    return (
        tf.range(keys, dtype=tf.int32)[None, :]
        - (tf.range(length, dtype=tf.int32) + start)[:, None]
    )


def combine_masks(first: tf.Tensor | None, second: tf.Tensor | None) -> tf.Tensor | None:
    """Logical and of two masks; None is a mask that is True everywhere."""
    if first is None or second is None:
        return second if first is None else first
    return tf.logical_and(first, second)


def padding_mask(x: tf.Tensor, pad_id: int) -> tf.Tensor:
    """Ids int `[B, S]` -> bool `[B, 1, 1, S]`, False at padding keys."""
    return tf.not_equal(x, pad_id)[:, None, None, :]


def causal_mask(length: int, keys: int, start: tf.Tensor | int = 0) -> tf.Tensor:
    """Bool `[1, 1, length, keys]`, True where key position <= query position."""
    return (relative_positions(length, keys, start) <= 0)[None, None]


def window_mask(length: int, keys: int, reach: int, start: tf.Tensor | int = 0) -> tf.Tensor:
    """Bool `[length, keys]`, True where the key is at most `reach` positions away."""
    return tf.abs(relative_positions(length, keys, start)) <= reach


def segment_ids(x: tf.Tensor, end_id: int) -> tf.Tensor:
    """Segment number of each token, int32 `[B, T]`: a segment ends with (and includes) `end_id`."""
    return tf.cumsum(tf.cast(tf.equal(x, end_id), tf.int32), axis=1, exclusive=True)


def segment_mask(queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Segment numbers int `[B, T]`, `[B, S]` -> bool `[B, 1, T, S]`, True within one segment."""
    return tf.equal(queries[:, None, :, None], keys[:, None, None, :])
