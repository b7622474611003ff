"""Multi-headed attention: the plain form, and the hooks that position encodings override."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tpu_tlm.models.layers.attention_group import Tables, attend_group
from tpu_tlm.models.layers.cache import Cache
from tpu_tlm.models.layers.counter_rng import Key, dropout_mask_at
from tpu_tlm.models.layers.layer import Layer, check_static_length
from tpu_tlm.models.layers.local_attention import Blocks, blocks_of
from tpu_tlm.models.layers.masks import combine_masks, window_mask
from tpu_tlm.models.layers.projections import QKV, Heads, Output, SingleQKV
from tpu_tlm.models.layers.score_groups import (
    WHOLE,
    ScoreGroups,
    score_groups,
)


class MultiHeadedAttention(Layer):
    """Scaled dot-product attention: `[B, T, d] -> [B, T, d]` (arXiv 1706.03762, 3.2).

    out = w_O concat_h softmax(q k^T / sqrt(k) + position_bias) v. Scores and softmax are float32 in
    every precision.

    `d_k`: width of a head, which need not be `d_model / num_heads`; `pdrop`: dropout rate of the
    attention weights; `window`: keys further away than this are masked (None: none);
    `single_head`: MEAD's form of one head, values `[B, T, d]` and no w_O. Raises ValueError for
    sizes that contradict each other.

    Call arguments: `attention_mask`, bool, broadcast to `[B, h, T, S]`, True = attend;
    `encoder_output` `[B, S, d]`, the source of keys and values in cross attention.

    A position encoding overrides `position_tables`, `apply_positions`, `scores`, `position_bias`
    or `weighted_values`.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        d_k: int | None = None,
        pdrop: float = 0.0,
        window: int | None = None,
        single_head: bool = False,
        use_bias: bool = True,
        scaled: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if d_k is None and d_model % num_heads:
            raise ValueError(
                f"d_model {d_model} cannot be divided among {num_heads} heads; give d_k"
            )
        if single_head and num_heads != 1:
            raise ValueError(
                f"--single_head is the form of one head, not of --num_heads {num_heads}"
            )
        if window is not None and window < 1:
            raise ValueError(
                f"a window must reach 1 position or more, not {window}; with --windowed_ra give"
                " --rpr_k"
            )
        self.num_heads, self.pdrop, self.window = num_heads, pdrop, window
        self.d_k = d_k or d_model // num_heads
        self.scale = self.d_k**-0.5 if scaled else 1.0
        self.d_v = d_model if single_head else self.d_k
        self.w_O: Output | None = None
        if single_head:
            self.qkv = SingleQKV(d_model, self.d_k, name="qkv", dtype=self.dtype_policy)
        else:
            biases: dict[str, Any] = {"use_bias": use_bias, "dtype": self.dtype_policy}
            self.qkv = QKV(d_model, num_heads, self.d_k, name="qkv", **biases)
            self.w_O = Output(d_model, num_heads, self.d_k, name="w_O", **biases)

    def position_tables(self) -> Tables:
        """The position encoding's tensors for `scores`, `position_bias` and `weighted_values`.

        In the dtypes that these compute with.
        """
        return ()

    def apply_positions(
        self, q: tf.Tensor, k: tf.Tensor, start: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Queries and keys with positions applied. `start`: position of the first (None: 0)."""
        return q, k

    def scores(
        self, q: tf.Tensor, k: tf.Tensor, start: tf.Tensor | None, tables: Tables
    ) -> tf.Tensor:
        """Scores `[B, h, T, S]` of scaled queries `[B, h, T, k]` and keys `[B, h, S, k]`."""
        return tf.matmul(q, k, transpose_b=True)

    def position_bias(
        self, length: int, keys: int, start: tf.Tensor | None, tables: Tables
    ) -> tf.Tensor | None:
        """Bias that is added to the scores: float32, broadcast to `[h, T, S]`, or None."""
        return None

    def weighted_values(
        self, weights: tf.Tensor, v: tf.Tensor, start: tf.Tensor | None, tables: Tables
    ) -> tf.Tensor:
        """Values `[B, h, S, k]` summed with the weights `[B, h, T, S]`: `[B, h, T, k]`.

        Must be linear in the weights: dropout is applied to them, and its factor to the result.
        """
        return tf.matmul(weights, v)

    @property
    def by_content(self) -> bool:
        """Whether scores and values depend on queries, keys and values alone, at any place."""
        hooks = ("attend", "scores", "position_bias", "weighted_values")
        own, plain = type(self), MultiHeadedAttention
        return all(getattr(own, hook) is getattr(plain, hook) for hook in hooks)

    def cache(self, rows: int, length: int, position: tf.Tensor) -> Cache:
        """An empty cache for `rows` texts of `length` positions."""
        shape = (rows, self.num_heads, length)
        return Cache(
            position,
            tf.zeros((*shape, self.d_k), self.compute_dtype),
            tf.zeros((*shape, self.d_v), self.compute_dtype),
        )

    def _groups(self, rows: int | None, heads: int, queries: int, keys: int) -> ScoreGroups:
        return score_groups(rows, heads, queries, keys, split_heads=self.by_content)

    def _heads(
        self,
        x: tf.Tensor,
        encoder_output: tf.Tensor | None,
        cache: Cache | None,
        groups: ScoreGroups,
    ) -> Heads:
        if encoder_output is not None:
            source = (
                cache.source
                if cache is not None and cache.source is not None
                else self.qkv.keys_values(encoder_output, groups)
            )
            return (self.qkv.queries(x, groups), *source)
        q, k, v = self.qkv(x, groups=groups)
        if cache is None:
            return (*self.apply_positions(q, k, None), v)
        q, k = self.apply_positions(q, k, cache.position)
        return (q, *cache.extend(k, v))

    def attend(
        self,
        q: tf.Tensor,
        k: tf.Tensor,
        v: tf.Tensor,
        attention_mask: tf.Tensor | None,
        key: Key | None,
        start: tf.Tensor | None,
    ) -> tf.Tensor:
        """The output `[B, h, T, k]` of the heads, before the output projection.

        The gradient is written out, after FlashAttention (arXiv 2205.14135, B.4): the sum that the
        softmax's gradient needs, sum_s dp_ts p_ts, is do_t . o_t. In bfloat16 nothing of the size
        of the scores is stored: the backward pass computes scores and weights again, so that every
        pass over `[T, S]` is part of a matrix product. Dropout's factor is applied to the output
        for the same reason. In float32, which is for CPUs, where arithmetic costs more than
        passes, the weights are stored. On a TPU, rows and heads are divided into groups whose
        scores fit in the core's own memory; results and dropout do not depend on the groups. A v6e
        stores the exponentials of few scores, and divides by their sums later.
        """
        shape = (q.shape[2], k.shape[2])

        def numbers(first: int, count: int) -> tf.Tensor:
            size = math.prod(shape)
            flat = tf.range(count * size, dtype=tf.int32) + first * size
            return tf.reshape(flat, (count, *shape))

        return self._attend(q, k, v, attention_mask, key, numbers, start)

    def _attend_in_blocks(
        self,
        q: tf.Tensor,
        k: tf.Tensor,
        v: tf.Tensor,
        attention_mask: tf.Tensor | None,
        key: Key | None,
        blocks: Blocks,
    ) -> tf.Tensor:
        """`attend` with the window's mask, computing only the scores that the window may need.

        Dropout draws what it draws for the same pair of positions without blocks.
        """
        out = self._attend(
            blocks.queries(q),
            blocks.around(k),
            blocks.around(v),
            blocks.mask(attention_mask, q.shape[1]),
            key,
            blocks.numbers,
            None,
        )
        return blocks.join(out)

    def _attend(
        self,
        q: tf.Tensor,
        k: tf.Tensor,
        v: tf.Tensor,
        attention_mask: tf.Tensor | None,
        key: Key | None,
        numbers: Callable[[int, int], tf.Tensor],
        start: tf.Tensor | None,
    ) -> tf.Tensor:
        """`attend` with dropout drawn by the numbers, int32 `[count, T, S]`, of some heads.

        `numbers`: of the number of the first of them, and how many.
        """
        groups = self._groups(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        keys, masks = [key] * len(groups), [attention_mask] * len(groups)
        if key is not None and groups.divide:
            keys = [key.of_rows(group.rows) for group in groups.groups]
        if attention_mask is not None and groups.divide:
            masks = groups.split(attention_mask[(None,) * (4 - len(attention_mask.shape))])
        # Numbers of their own: what groups share would be stored, which costs a pass.
        keeps = [
            dropout_mask_at(self.pdrop, part_key, "attn", numbers(*group.head_range(q.shape[1])))
            for part_key, group in zip(keys, groups.groups, strict=True)
        ]
        parts = [
            attend_group(self, mask, keep, start) for mask, keep in zip(masks, keeps, strict=True)
        ]

        @tf.custom_gradient
        def run(
            q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, *tables: tf.Tensor
        ) -> tuple[tf.Tensor, Any]:
            cut = list(zip(groups.split(q), groups.split(k), groups.split(v), strict=True))
            done = [part(*qkv, tables) for part, qkv in zip(parts, cut, strict=True)]
            out = groups.join([part_out for part_out, _ in done])

            def backward(d_out: tf.Tensor) -> list[tf.Tensor]:
                means = tf.reduce_sum(
                    tf.cast(d_out, tf.float32) * tf.cast(out, tf.float32), axis=-1, keepdims=True
                )
                gradients = [
                    part_backward(d_part, mean, d_out)
                    for (_, part_backward), d_part, mean in zip(
                        done, groups.split(d_out), groups.split(means), strict=True
                    )
                ]
                d_q, d_k, d_v, *d_tables = zip(*gradients, strict=True)
                joined = [groups.join(parts) for parts in (d_q, d_k, d_v)]
                return joined + [tf.add_n(parts) for parts in d_tables]

            return out, backward

        return run(q, k, v, *self.position_tables())

    def call(
        self,
        x: tf.Tensor,
        attention_mask: tf.Tensor | None = None,
        key: Key | None = None,
        encoder_output: tf.Tensor | None = None,
        cache: Cache | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        check_static_length(x)
        key = self.dropout_key(x, key, training)
        start = cache.position if cache is not None else None
        local = cache is None and encoder_output is None and self.by_content
        # A mask is cut into blocks by its static shape.
        if attention_mask is not None:
            local &= tf.TensorShape(attention_mask.shape)[-3:].is_fully_defined()
        blocks = blocks_of(x.shape[1], self.window) if local else None
        source = x if encoder_output is None else encoder_output
        groups = (
            WHOLE
            if blocks or cache
            else self._groups(x.shape[0], self.num_heads, x.shape[1], source.shape[1])
        )
        q, k, v = self._heads(x, encoder_output, cache, groups)
        if blocks is not None:
            out = self._attend_in_blocks(q, k, v, attention_mask, key, blocks)
            return out[:, 0] if self.w_O is None else self.w_O(out)
        if self.window is not None:
            first = 0 if start is None else start
            attention_mask = combine_masks(
                attention_mask, window_mask(q.shape[2], k.shape[2], self.window, first)
            )
        out = self.attend(q, k, v, attention_mask, key, start)
        return out[:, 0] if self.w_O is None else self.w_O(out)
