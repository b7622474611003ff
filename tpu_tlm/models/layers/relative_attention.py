"""Attention with learned relative positions (Shaw et al.), also in windows."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.models.layers.attention import MultiHeadedAttention, Tables
from tpu_tlm.models.layers.counter_rng import Key, dropout
from tpu_tlm.models.layers.masks import MASKED, offsets


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


def skewed(wide: tf.Tensor, keys: int) -> tf.Tensor:
    """`[B, h, T, T + S - 1]` by offset -> `[B, h, T, S]` by key: `out[i, j] = in[i, j - i + T - 1]`.

    Two reshapes instead of a gather: row i of the offset table starts one place earlier in the flat array than row i - 1.
    """
    batch, heads, length, width = wide.shape
    if length == 1:
        return wide
    flat = tf.reshape(wide, (-1, heads, length * width))
    flat = flat[:, :, length - 1 : length - 1 + length * (width - 1)]
    return tf.reshape(flat, (-1 if batch is None else batch, heads, length, width - 1))[..., :keys]


def relative_to_absolute(by_offset: tf.Tensor, keys: int | None = None) -> tf.Tensor:
    """By offset to by key: `[B, h, T, 2k + 1] -> [B, h, T, S]`, `out[i, j] = in[i, clip(j - i, -k, k) + k]`; S is T unless given."""
    length = by_offset.shape[2]
    return skewed(_band(by_offset, length, keys or length), keys or length)


def absolute_to_relative(weights: tf.Tensor, reach: int) -> tf.Tensor:
    """The transpose of `relative_to_absolute`: `[B, h, T, S] -> [B, h, T, 2 reach + 1]`, sums the keys that share an offset."""
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


class MultiHeadedRelativeAttention(MultiHeadedAttention):
    """Attention with learned relative positions, clipped at `rpr_k` (Shaw et al., arXiv 1803.02155).

    score = (q.k + q.rpr_key[clip(j - i) + rpr_k]) / sqrt(k); with `rpr_value_on` the output gains
    sum_j a_ij rpr_value[clip(j - i) + rpr_k]. Tables `[2 rpr_k + 1, k]`, shared by the heads. The `[T, T, k]` tables of the
    formula are never made: queries meet the 2 rpr_k + 1 rows, and the result is skewed into place.
    """

    def __init__(
        self, d_model: int, num_heads: int, *, rpr_k: int, rpr_value_on: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(d_model, num_heads, **kwargs)
        if rpr_k < 1:
            raise ValueError(f"rpr_k must be 1 or more, not {rpr_k}")
        self.rpr_k = rpr_k
        self.rpr_key = self.add_weight(
            name="rpr_key", shape=(2 * rpr_k + 1, self.d_k), initializer="zeros"
        )
        self.rpr_value = (
            self.add_weight(name="rpr_value", shape=(2 * rpr_k + 1, self.d_v), initializer="zeros")
            if rpr_value_on
            else None
        )

    def _rows(self, keys: int, start: tf.Tensor) -> tf.Tensor:
        """Rows of the tables that keys 0 .. S - 1 have for the one query at `start`: int32 `[S]`."""
        return tf.clip_by_value(offsets(1, keys, start)[0], -self.rpr_k, self.rpr_k) + self.rpr_k

    def tables(self) -> Tables:
        return tuple(
            tf.cast(t, self.compute_dtype) for t in (self.rpr_key, self.rpr_value) if t is not None
        )

    def scores(
        self, q: tf.Tensor, k: tf.Tensor, start: tf.Tensor | None, tables: Tables
    ) -> tf.Tensor:
        plain = super().scores(q, k, start, tables)
        by_offset = tf.einsum("bhtk,rk->bhtr", q, tables[0])
        if start is not None:
            return plain + tf.gather(by_offset, self._rows(k.shape[2], start), axis=-1)
        return plain + relative_to_absolute(by_offset, k.shape[2])

    def mixed(
        self, weights: tf.Tensor, v: tf.Tensor, start: tf.Tensor | None, tables: Tables
    ) -> tf.Tensor:
        out = super().mixed(weights, v, start, tables)
        if self.rpr_value is None:
            return out
        if start is not None:
            rows = tf.one_hot(
                self._rows(v.shape[2], start), 2 * self.rpr_k + 1, dtype=weights.dtype
            )
            by_offset = tf.einsum("bhts,sr->bhtr", weights, rows)
        else:
            by_offset = absolute_to_relative(weights, self.rpr_k)
        return out + tf.einsum("bhtr,rk->bhtk", by_offset, tables[1])


class OverhangingRelativeAttention(MultiHeadedRelativeAttention):
    """Windowed relative attention as MEAD computes it where nothing is masked: for loading its files.

    Places of the window that lie before or after the text have zero keys and values, yet take part in the softmax with score
    q.rpr_key / sqrt(k) and in the output with rpr_value. With a mask they are masked out, as by `window`.
    """

    def attend(
        self,
        q: tf.Tensor,
        k: tf.Tensor,
        v: tf.Tensor,
        visible: tf.Tensor | None,
        key: Key | None,
        start: tf.Tensor | None,
    ) -> tf.Tensor:
        q = q * tf.cast(self.d_k**-0.5, q.dtype)
        length = q.shape[2]
        scores = tf.where(
            visible, tf.cast(self.scores(q, k, start, self.tables()), tf.float32), MASKED
        )
        place = tf.range(length)[:, None] + tf.range(-self.rpr_k, self.rpr_k + 1)[None, :]
        off = tf.logical_or(place < 0, place >= length)
        beyond = tf.where(
            off, tf.cast(tf.einsum("bhtk,rk->bhtr", q, self.rpr_key), tf.float32), MASKED
        )
        weights = tf.cast(tf.nn.softmax(tf.concat([scores, beyond], axis=-1)), self.compute_dtype)
        weights = dropout(weights, self.pdrop, key, "attn")
        out = self.mixed(weights[..., :length], v, start, self.tables())
        if self.rpr_value is None:
            return out
        return out + tf.einsum("bhtr,rk->bhtk", weights[..., length:], self.rpr_value)
