"""Groups of rows and heads whose attention scores stay in the fast memory of a TPU's core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tpu_tlm.models.layers.target import for_tpu, for_v6e

# Scores of one group: 50 MB of float32, in a core's 128 MiB. With twice as many a step of one layer
# with 4 x 1,024 tokens took 29 % longer, with half as many 7 % (benchmarks/tpu.md).
LARGEST = 4 * 12 * 512 * 512

# Fastest undivided: up to so many scores, and attention to fewer keys.
UNDIVIDED = 4 * 16 * 512 * 512
FEWEST_KEYS = 256


# Exponentials of so many scores are stored for the backward pass where keys are fewer than
# FEWEST_KEYS: in bfloat16 they stay in the core's memory until the next product.
STORED = 2**24


@dataclass(frozen=True)
class Group:
    """The rows and heads of one group, as slices of the first two axes."""

    rows: slice
    heads: slice

    def of(self, x: tf.Tensor) -> tf.Tensor:
        """Its part of a tensor `[B or 1, h or 1, ...]`."""
        return x[
            self.rows if x.shape[0] != 1 else slice(None),
            self.heads if x.shape[1] != 1 else slice(None),
        ]

    def head_range(self, total: int) -> tuple[int, int]:
        """The number of its first head, and how many of `total` it has."""
        first, end, _ = self.heads.indices(total)
        return first, end - first


class ScoreGroups:
    """A division of `rows` rows and `heads` heads into groups of equal size.

    `groups`: in the order of rows, then of heads.
    """

    def __init__(self, rows: Sequence[slice], heads: Sequence[slice]) -> None:
        self.groups = [Group(row, head) for row in rows for head in heads]
        self._columns = len(heads)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def divide(self) -> bool:
        """Whether there are several."""
        return len(self) > 1

    def split(self, x: tf.Tensor) -> list[tf.Tensor]:
        """The groups' parts of a tensor `[B or 1, h or 1, ...]`."""
        return [group.of(x) for group in self.groups] if self.divide else [x]

    def join(self, parts: Sequence[tf.Tensor], *, sum_rows: bool = False) -> tf.Tensor:
        """One tensor of the groups' parts, `[B, h, ...]`.

        With `sum_rows` the parts are `[h, ...]`, and those of the same heads are added.
        """
        width = self._columns
        rows = [parts[i : i + width] for i in range(0, len(parts), width)]
        axis = 0 if sum_rows else 1
        joined = [row[0] if width == 1 else tf.concat(row, axis) for row in rows]
        if len(joined) == 1:
            return joined[0]
        return tf.add_n(joined) if sum_rows else tf.concat(joined, axis=0)


WHOLE = ScoreGroups([slice(None)], [slice(None)])


def _equal_parts(total: int, largest: int) -> list[slice]:
    """The fewest equal parts of `total` that are no larger than `largest`."""
    count = next(n for n in range(1, total + 1) if total % n == 0 and total // n <= largest)
    size = total // count
    return [slice(i * size, (i + 1) * size) for i in range(count)]


def score_groups(
    rows: int | None, heads: int, queries: int, keys: int, *, split_heads: bool = True
) -> ScoreGroups:
    """How to divide attention with `queries` x `keys` scores in each head of each row.

    One group for other devices than TPUs, for few scores or keys, where the number of rows is not
    known, and where one head (all heads, without `split_heads`) has too many scores for a group.
    """
    if rows is None or keys < FEWEST_KEYS or not for_tpu():
        return WHOLE
    largest = LARGEST // (queries * keys)
    if rows * heads * queries * keys <= UNDIVIDED or largest < (1 if split_heads else heads):
        return WHOLE
    if largest >= heads:
        return ScoreGroups(_equal_parts(rows, largest // heads), [slice(0, heads)])
    return ScoreGroups(_equal_parts(rows, 1), _equal_parts(heads, largest))


def stores_exponentials(q: tf.Tensor, k: tf.Tensor) -> bool:
    """Whether attention of `q` `[B, h, T, k]` to `k` `[B, h, S, k]` stores exponentials.

    On a v6e (`target.for_v6e`), in bfloat16, for few keys and scores: there each pass
    over them costs more than what it saves to compute them again.
    """
    scores = (*q.shape[:3], k.shape[2])
    return (
        q.dtype == tf.bfloat16
        and None not in scores
        and scores[-1] < FEWEST_KEYS
        and math.prod(scores) <= STORED
        and for_v6e()
    )


def add_head_bias(x: tf.Tensor, bias: tf.Tensor, groups: ScoreGroups) -> tf.Tensor:
    """`x + bias`, `[B, h, T, k]` and `[h, k]`; the gradient of the bias is summed by group.

    So that each group's sum is part of the product that gives its gradient of x.
    """
    if not groups.divide:
        return x + bias[:, None]

    @tf.custom_gradient
    def run(x: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def backward(gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            sums = [tf.reduce_sum(part, axis=(0, 2)) for part in groups.split(gradient)]
            return gradient, groups.join(sums, sum_rows=True)

        return x + bias[:, None], backward

    return run(x, bias)
