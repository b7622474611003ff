"""Length buckets, and the batch of every step: a pure function of the data and the seed.

Batches are drawn from the texts of one bucket (`make_buckets` and `make_plan`), or from all texts
and padded to the bucket of their longest one (`mixed_batches`), which pads more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tpu_tlm.tasks.examples import Examples

# Lengths are multiples of this: rows of a TPU's registers.
_MULTIPLE = 8
# A further bucket must save this share of the padded tokens: each is one more program to compile.
_SAVING = 0.08


def bucket_lengths(
    lengths: np.ndarray, most: int, limit: int, fixed: int | None = None
) -> list[int]:
    """Ascending lengths that texts are padded to, at most `most`, with the least padding.

    limit: tokens that the model takes; fixed: the only length that it takes (gated MLP).
    """
    if fixed is not None:
        return [fixed]
    rounded = np.minimum(-(-np.asarray(lengths) // _MULTIPLE) * _MULTIPLE, limit)
    sizes, counts = np.unique(rounded, return_counts=True)
    if len(sizes) > 64:  # as fine as it matters
        keep = np.unique(np.quantile(rounded, np.linspace(0, 1, 65), method="higher"))
        counts = np.array(
            [
                ((rounded <= b) & (rounded > a)).sum()
                for a, b in zip([0, *keep[:-1]], keep, strict=True)
            ]
        )
        sizes = keep
    total = np.concatenate([[0], np.cumsum(counts)])
    n = len(sizes)
    cost = np.full((most + 1, n + 1), np.inf)
    choice = np.zeros((most + 1, n + 1), np.int64)
    cost[0, 0] = 0.0
    for k in range(1, most + 1):
        for end in range(1, n + 1):
            options = cost[k - 1, :end] + (total[end] - total[:end]) * float(sizes[end - 1])
            choice[k, end] = int(np.argmin(options))
            cost[k, end] = options[choice[k, end]]
    used = 1
    while used < most and cost[used + 1, n] < cost[used, n] * (1.0 - _SAVING):
        used += 1
    found, end = [], n
    for k in range(used, 0, -1):
        found.append(int(sizes[end - 1]))
        end = int(choice[k, end])
    return found[::-1]


@dataclass(frozen=True)
class Bucket:
    """Windows of one padded length as arrays `[windows, ...]`, and how many a batch has.

    index: number of each window in the examples.
    """

    arrays: dict[str, np.ndarray]
    index: np.ndarray
    length: int
    batch: int


def rows_per_batch(length: int, batch_size: int, batch_tokens: int | None, multiple: int) -> int:
    """Rows of a batch of texts of one length; a multiple of replicas times micro-batches."""
    wanted = batch_size if batch_tokens is None else max(1, batch_tokens // length)
    return max(1, wanted // multiple) * multiple


def make_buckets(
    examples: Examples,
    targets: dict[str, np.ndarray],
    lengths: Sequence[int],
    pad_id: int,
    batch: dict[int, int],
) -> list[Bucket]:
    """The windows sorted into buckets and padded.

    targets: arrays by name per window; `label` of tags are lists as long as the window, padded
    with -1. batch: rows of a batch by length.
    """
    sizes = examples.lengths()
    at = np.searchsorted(np.asarray(lengths), sizes)
    buckets = []
    for number, length in enumerate(lengths):
        index = np.flatnonzero(at == number)
        arrays = {
            "x": _padded(examples.ids, index, length, pad_id),
            "n": _counts(examples.ids, index),
        }
        if examples.types is not None:
            arrays["tt"] = _padded(examples.types, index, length, 0)
        if examples.second is not None:
            arrays["x2"] = _padded(examples.second, index, length, pad_id)
            arrays["n2"] = _counts(examples.second, index)
        for name, values in targets.items():
            arrays[name] = (
                _padded(values, index, length, -1) if isinstance(values, list) else values[index]
            )
        buckets.append(Bucket(arrays, index, length, batch[length]))
    return buckets


def _counts(values: Sequence[np.ndarray], index: np.ndarray) -> np.ndarray:
    """Tokens of each text: int32 `[windows]`."""
    return np.array([len(values[i]) for i in index], np.int32)


def _padded(values: Sequence[np.ndarray], index: np.ndarray, length: int, fill: int) -> np.ndarray:
    inner = values[0].shape[1:] if len(values) else ()
    # Characters fit two bytes; they become int32 in a batch.
    out = np.full((len(index), length, *inner), fill, np.int16 if inner else np.int32)
    for row, i in enumerate(index):
        out[row, : len(values[i])] = values[i]
    return out


@dataclass(frozen=True)
class Plan:
    """The batches of a run: bucket of each step, and the rows of each bucket's batches.

    order: bucket by step, int `[steps]`. rows: per bucket int `[batches, batch]`, -1 = no row.
    positions: per bucket int64 `[batches, batch]`, number of the example in the run, from which
    dropout is drawn. ends: step after which each epoch is over.
    """

    order: np.ndarray
    rows: list[np.ndarray]
    positions: list[np.ndarray]
    ends: list[int]

    def before(self, step: int) -> list[int]:
        """How many batches of each bucket the first `step` steps take."""
        return np.bincount(self.order[:step], minlength=len(self.rows)).tolist()


def make_plan(buckets: Sequence[Bucket], epochs: float, seed: int) -> Plan:
    """Every window once per epoch, in an order drawn from the seed; batches are full.

    Rows that do not fill a batch wait for the next epoch; those left at the end form batches with
    empty rows, which have no weight.
    """
    sizes = [len(b.index) for b in buckets]
    where = np.concatenate([np.full(n, i) for i, n in enumerate(sizes)])
    local = np.concatenate([np.arange(n) for n in sizes])
    total = len(where)
    waiting: list[list[int]] = [[] for _ in buckets]
    order: list[int] = []
    rows: list[list[list[int]]] = [[] for _ in buckets]
    positions: list[list[list[int]]] = [[] for _ in buckets]
    ends: list[int] = []
    position = 0

    def emit(b: int) -> None:
        nonlocal position
        chosen, waiting[b] = waiting[b], []
        chosen += [-1] * (buckets[b].batch - len(chosen))
        order.append(b)
        rows[b].append(chosen)
        positions[b].append(list(range(position, position + len(chosen))))
        position += len(chosen)

    epoch, left = 0, epochs
    while left > 1e-9:
        taken = total if left >= 1 else max(1, round(left * total))
        permutation = np.random.default_rng([seed, epoch]).permutation(total)[:taken]
        for i in permutation:
            b = int(where[i])
            waiting[b].append(int(local[i]))
            if len(waiting[b]) == buckets[b].batch:
                emit(b)
        left -= 1
        epoch += 1
        if left <= 1e-9:
            for b in range(len(buckets)):
                if waiting[b]:
                    emit(b)
        ends.append(len(order))
    return Plan(
        np.array(order, np.int64),
        [np.array(r, np.int64).reshape(-1, b.batch) for r, b in zip(rows, buckets, strict=True)],
        [
            np.array(p, np.int64).reshape(-1, b.batch)
            for p, b in zip(positions, buckets, strict=True)
        ],
        ends,
    )


def mixed_batches(
    examples: Examples,
    targets: dict[str, np.ndarray],
    pad_id: int,
    batch: int,
    lengths_of: Callable[[np.ndarray], list[int]],
    epochs: float,
    seed: int,
) -> tuple[list[Bucket], Plan]:
    """Buckets and plan of batches of any texts; a batch has the bucket of its longest text.

    batch: rows of a batch; lengths_of: the longest texts of all batches -> lengths of the buckets,
    ascending. Every bucket holds all windows, of which it takes those of its batches.
    """
    sizes = examples.lengths()
    limit = int(sizes.max(initial=1))
    (whole,) = make_buckets(examples, targets, [limit], pad_id, {limit: batch})
    plan = make_plan([whole], epochs, seed)
    (rows,), (positions,) = plan.rows, plan.positions
    longest = np.where(rows >= 0, sizes[rows], 0).max(axis=1, initial=0)
    lengths = lengths_of(longest)
    order = np.searchsorted(np.asarray(lengths), longest)
    tags = [name for name, values in targets.items() if isinstance(values, list)]
    by_token = {"x", "tt", "x2", *tags}
    fill = {"tt": 0, **dict.fromkeys(("x", "x2"), pad_id)}
    buckets, chosen = [], []
    for number, length in enumerate(lengths):
        arrays = {
            name: _cut(array, length, fill.get(name, -1)) if name in by_token else array
            for name, array in whole.arrays.items()
        }
        buckets.append(Bucket(arrays, whole.index, length, batch))
        chosen.append(order == number)
    plan = Plan(order, [rows[own] for own in chosen], [positions[own] for own in chosen], plan.ends)
    return buckets, plan


def _cut(array: np.ndarray, length: int, fill: int) -> np.ndarray:
    """Rows of another length: cut, or padded with `fill`."""
    more = length - array.shape[1]
    if more <= 0:
        return array[:, :length]
    widths = [(0, 0), (0, more), *[(0, 0)] * (array.ndim - 2)]
    return np.pad(array, widths, constant_values=fill)


def batch_stream(
    bucket: Bucket, rows: np.ndarray, positions: np.ndarray, hosts: int, host: int
) -> tf.data.Dataset:
    """The batches of one bucket, each with this host's rows; weight 0 where there is no row."""
    share = rows.shape[1] // hosts
    own = slice(host * share, (host + 1) * share)
    with tf.device("CPU:0"):
        arrays = {name: tf.constant(array) for name, array in bucket.arrays.items()}

    @tf.autograph.experimental.do_not_convert
    def gathered(index: tf.Tensor, position: tf.Tensor) -> dict[str, tf.Tensor]:
        there = tf.cast(index >= 0, tf.float32)
        at = tf.maximum(index, 0)
        batch = {name: _widened(tf.gather(array, at)) for name, array in arrays.items()}
        batch["weight"] = batch["weight"] * there
        batch["position"] = position
        return {name: tf.ensure_shape(t, (share, *t.shape[1:])) for name, t in batch.items()}

    data = tf.data.Dataset.from_tensor_slices((rows[:, own], positions[:, own]))
    return data.map(gathered)


def _widened(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.int32) if x.dtype == tf.int16 else x


def in_order(bucket: Bucket, rows: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """(numbers of the windows, arrays padded to `rows` rows) of a bucket, for prediction."""
    for start in range(0, len(bucket.index), rows):
        index = bucket.index[start : start + rows]
        part = {name: array[start : start + rows] for name, array in bucket.arrays.items()}
        missing = rows - len(index)
        if missing:
            part = {
                name: np.concatenate([a, np.repeat(a[-1:], missing, axis=0)])
                for name, a in part.items()
            }
        yield (
            index,
            {n: a.astype(np.int32) if a.dtype == np.int16 else a for n, a in part.items()},
        )
