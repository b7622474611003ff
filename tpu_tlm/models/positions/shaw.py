"""Shaw's relative positions: learned keys and values by clipped distance."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.attention import MultiHeadedAttention
from tpu_tlm.models.layers.attention_group import Tables
from tpu_tlm.models.layers.counter_rng import Key, dropout
from tpu_tlm.models.layers.cpu_gradients import stored
from tpu_tlm.models.layers.masks import MASKED, relative_positions
from tpu_tlm.models.positions.base import RelativeEncoding, Table
from tpu_tlm.models.positions.skew import absolute_to_relative, relative_to_absolute


class MultiHeadedRelativeAttention(MultiHeadedAttention):
    """Attention with learned relative positions, clipped at `rpr_k` (arXiv 1803.02155).

    score = (q.k + q.rpr_key[clip(j - i) + rpr_k]) / sqrt(k); with `rpr_value_on` the output gains
    sum_j a_ij rpr_value[clip(j - i) + rpr_k]. Tables `[2 rpr_k + 1, k]`, shared by the heads. The
    `[T, T, k]` tensors of the formula are never built: queries are multiplied with the 2 rpr_k + 1
    rows, and the result is skewed into place. Raises ValueError for `rpr_k` below 1.
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
        """Rows of the tables for keys 0 .. S - 1 and the one query at `start`: int32 `[S]`."""
        offsets = relative_positions(1, keys, start)[0]
        return tf.clip_by_value(offsets, -self.rpr_k, self.rpr_k) + self.rpr_k

    def position_tables(self) -> Tables:
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

    def weighted_values(
        self, weights: tf.Tensor, v: tf.Tensor, start: tf.Tensor | None, tables: Tables
    ) -> tf.Tensor:
        out = super().weighted_values(weights, v, start, tables)
        if self.rpr_value is None:
            return out
        if start is not None:
            rows = tf.one_hot(
                self._rows(v.shape[2], start), 2 * self.rpr_k + 1, dtype=weights.dtype
            )
            by_offset = tf.einsum("bhts,sr->bhtr", weights, rows)
        else:
            by_offset = absolute_to_relative(stored(weights), self.rpr_k)
        return out + tf.einsum("bhtr,rk->bhtk", by_offset, tables[1])


class MeadWindowedRelativeAttention(MultiHeadedRelativeAttention):
    """Windowed relative attention as MEAD computes it without a mask, to load its files.

    Positions of the window before or after the text have zero keys and values, yet take part in
    the softmax with score q.rpr_key / sqrt(k) and in the output with rpr_value. With a mask MEAD
    masks them, and `window` alone gives the same.
    """

    def attend(
        self,
        q: tf.Tensor,
        k: tf.Tensor,
        v: tf.Tensor,
        attention_mask: tf.Tensor | None,
        key: Key | None,
        start: tf.Tensor | None,
    ) -> tf.Tensor:
        q = q * tf.cast(self.scale, q.dtype)
        length, tables = q.shape[2], self.position_tables()
        scores = tf.cast(self.scores(q, k, start, tables), tf.float32)
        scores = tf.where(attention_mask, scores, MASKED)
        position = tf.range(length)[:, None] + tf.range(-self.rpr_k, self.rpr_k + 1)[None, :]
        outside = tf.logical_or(position < 0, position >= length)
        beyond = tf.cast(tf.einsum("bhtk,rk->bhtr", q, self.rpr_key), tf.float32)
        beyond = tf.where(outside, beyond, MASKED)
        weights = tf.cast(tf.nn.softmax(tf.concat([scores, beyond], axis=-1)), self.compute_dtype)
        weights = dropout(weights, self.pdrop, key, "attn")
        out = self.weighted_values(weights[..., :length], v, start, tables)
        if self.rpr_value is None:
            return out
        return out + tf.einsum("bhtr,rk->bhtk", weights[..., length:], self.rpr_value)


class Shaw(RelativeEncoding):
    """`shaw`: learned keys and (`rpr_value_on`) values by distance, up to `rpr_k` per layer."""

    options = ("rpr_k", "rpr_value_on")
    all_tables = (Table("rpr_key", "rpr_key", 0.05), Table("rpr_value", "rpr_value", 0.05))
    in_cross_attention = True

    def tables(
        self, config: ModelConfig, layer: int = 0, *, cross: bool = False
    ) -> tuple[Table, ...]:
        if not config.rpr_k_of(layer):
            return ()
        return self.all_tables if config.rpr_value_on else self.all_tables[:1]

    def attention(
        self, config: ModelConfig, layer: int, *, causal: bool, cross: bool, **kwargs: Any
    ) -> MultiHeadedAttention:
        rpr_k, sizes = config.rpr_k_of(layer), (config.d_model, config.num_heads)
        if not rpr_k:
            return MultiHeadedAttention(*sizes, **kwargs)
        unmasked = not (config.mask_pad or causal or cross)
        as_mead = config.windowed_ra and config.compat == "mead" and unmasked
        kind = MeadWindowedRelativeAttention if as_mead else MultiHeadedRelativeAttention
        return kind(*sizes, rpr_k=rpr_k, rpr_value_on=config.rpr_value_on, **kwargs)

    def multiply_adds(self, config: ModelConfig, layer: int, width: int, values: int) -> float:
        reach = config.rpr_k_of(layer)
        rows = 2 * reach + 1 if reach else 0
        return rows * (width + (values if config.rpr_value_on else 0))
