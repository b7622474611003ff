"""Between tensors by offset (key minus query) and tensors by key, without gather or scatter."""

from __future__ import annotations

import tensorflow as tf


def _band(by_offset: tf.Tensor, length: int, keys: int) -> tf.Tensor:
    """`[..., 2k + 1]` by clipped offset -> `[..., T + S - 1]` by offset `-(T - 1) .. S - 1`."""
    reach = (by_offset.shape[-1] - 1) // 2
    low, high = length - 1, keys - 1
    parts = [by_offset[..., max(reach - low, 0) : reach + min(high, reach) + 1]]
    ones = [1] * (len(by_offset.shape) - 1)
    if low > reach:
        parts.insert(0, tf.tile(by_offset[..., :1], (*ones, low - reach)))
    if high > reach:
        parts.append(tf.tile(by_offset[..., -1:], (*ones, high - reach)))
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=-1)


def skew(wide: tf.Tensor, keys: int) -> tf.Tensor:
    """By offset to by key: `[B, h, T, T + S - 1] -> [B, h, T, S]`.

    `out[i, j] = in[i, j - i + T - 1]`; S = `keys`.

    Two reshapes instead of a gather: in the flat array row i starts one element earlier, relative
    to its offsets, than row i - 1.
    """
    batch, heads, length, width = wide.shape
    if length == 1:
        return wide
    flat = tf.reshape(wide, (-1, heads, length * width))
    flat = flat[:, :, length - 1 : length - 1 + length * (width - 1)]
    return tf.reshape(flat, (-1 if batch is None else batch, heads, length, width - 1))[..., :keys]


def relative_to_absolute(by_offset: tf.Tensor, keys: int | None = None) -> tf.Tensor:
    """By clipped offset to by key: `[B, h, T, 2k + 1] -> [B, h, T, S]`.

    `out[i, j] = in[i, clip(j - i, -k, k) + k]`; S = `keys`, None: T.
    """
    length = by_offset.shape[2]
    return skew(_band(by_offset, length, keys or length), keys or length)


def absolute_to_relative(weights: tf.Tensor, reach: int) -> tf.Tensor:
    """The transpose of `relative_to_absolute`: `[B, h, T, S] -> [B, h, T, 2 reach + 1]`.

    Sums the keys that share a clipped offset.
    """
    batch, heads, length, keys = weights.shape
    wide = weights
    if length > 1:
        width = length + keys - 1
        flat = tf.reshape(
            tf.pad(weights, ((0, 0), (0, 0), (0, 0), (0, length - 2))),
            (-1, heads, length * (width - 1)),
        )
        flat = tf.pad(flat, ((0, 0), (0, 0), (length - 1, 1)))
        wide = tf.reshape(flat, (-1 if batch is None else batch, heads, length, width))
    middle, last = length - 1, keys - 1
    core = wide[..., max(middle - reach + 1, 0) : middle + min(reach, last + 1)]
    parts = [core]
    if middle >= reach:
        parts.insert(0, tf.reduce_sum(wide[..., : middle - reach + 1], axis=-1, keepdims=True))
    if last >= reach:
        parts.append(tf.reduce_sum(wide[..., middle + reach :], axis=-1, keepdims=True))
    out = tf.concat(parts, axis=-1) if len(parts) > 1 else core
    margins = (max(reach - middle, 0), max(reach - last, 0))
    return tf.pad(out, ((0, 0), (0, 0), (0, 0), margins)) if any(margins) else out
