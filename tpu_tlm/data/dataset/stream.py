"""Position -> batch: the order of a run's examples is a pure function of (dataset, seed, position).

Shards (large ones in pieces) are permuted for every epoch and taken in windows; every window is
read at once and permuted; batches are cut from that order, each host keeping its rows before
anything is decoded. All randomness comes from hashing (seed, epoch, window), so that nothing has to
be saved, and any position is reached by reading one window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tpu_tlm.data.dataset import splitmix
from tpu_tlm.data.dataset.dataset import Dataset
from tpu_tlm.data.dataset.decode import OUTSIDE, decoder, mead_decoder, piece_sum
from tpu_tlm.data.dataset.shards import FORMAT
from tpu_tlm.errors import TlmError, UsageError

# MEAD's records have no fixed length: its shards cannot be read in pieces.
_MEAD_WINDOW_BYTES = 256 << 20
_BLOCK_ROWS = 4096  # decoded at once
_ENDLESS = 1 << 62
_SHARDS, _ROWS = 1, 2  # what a key is for
_READING_ERRORS = (
    tf.errors.DataLossError,
    tf.errors.NotFoundError,
    tf.errors.OutOfRangeError,
    tf.errors.InvalidArgumentError,
)


class Stream:
    """The endless, shuffled stream of a training run.

    `window_shards` shards, or pieces of 4 MiB of larger ones, are permuted together and held in
    memory (twice: one is read ahead). `readers` of them are read at once; that and the number of
    hosts do not change the order.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        seed: int,
        batch_size: int,
        window_shards: int = 16,
        readers: int = 4,
    ) -> None:
        if batch_size < 1 or window_shards < 1 or readers < 1:
            raise UsageError(
                "--batch_size, --window_shards and --num_train_workers must be at least 1"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self._plan = _Plan(dataset, seed, window_shards)
        self._readers = readers

    def batches(self, start: int, *, hosts: int = 1, host: int = 0) -> tf.data.Dataset:
        """The endless batches from position `start` on.

        Batch b holds the positions from start + b * batch_size. Position p is example p % N of
        epoch p // N in that epoch's order. Elements: {"x": int32 [rows, seq_length], "w": uint8
        [rows, ceil(seq_length / 8)], "position": int64 [rows]}, rows = batch_size / hosts: this
        host's share of the batch; pairs add "y": int32 [rows, seq_length_y]. MEAD's records give
        "y" in place of "w" where they have it. Iterating raises an error of TensorFlow for damaged
        data: see `failure`.
        """
        return _batches(self._plan, start, self.batch_size, hosts, host, self._readers)


def in_order(
    dataset: Dataset, batch_size: int, *, hosts: int = 1, host: int = 0, readers: int = 4
) -> tf.data.Dataset:
    """One pass in file order, for evaluation.

    Elements are those of `Stream.batches`, and "valid": float32 [rows].

    The last batch is filled with examples from the beginning, where "valid" is 0.
    """
    plan = _Plan(dataset, None, 16)
    batches = _batches(plan, 0, batch_size, hosts, host, readers).take(
        -(-plan.samples // batch_size)
    )

    @tf.autograph.experimental.do_not_convert
    def marked(batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "valid": tf.cast(batch["position"] < plan.samples, tf.float32)}

    return batches.map(marked)


def first_examples(dataset: Dataset, count: int) -> dict[str, np.ndarray]:
    """The first examples, at most `count`, as the first batch of `in_order` has them.

    Read without a pipeline, which takes longer to be built than to be read. Raises `TlmError`
    naming the shard for damaged data.
    """
    plan = _Plan(dataset, None, 16)
    try:
        with tf.device("/CPU:0"):
            records = _read_piece(plan, tf.constant(plan.table[0]))[:count]
            found = {name: value.numpy() for name, value in _decoder(dataset)(records).items()}
    except _READING_ERRORS as error:
        raise failure(dataset, error) from error
    rows = np.arange(len(records), dtype=np.int64)
    return {**found, "position": rows, "valid": np.ones(len(rows), np.float32)}


def failure(dataset: Dataset, error: Exception) -> TlmError:
    """The one line for an error that iterating raised: names the damaged shard."""
    text = " ".join(str(error).split())
    for shard in dataset.shards:
        if dataset.path(shard) in text:
            return TlmError(
                f"{dataset.path(shard)}: cannot be read: it is damaged or changed: restore it or "
                "preprocess again"
            )
    # TensorFlow does not say which record it was.
    try:
        dataset.check_records() if OUTSIDE in text else dataset.verify()
    except TlmError as found:
        return found
    return TlmError(f"{dataset.directory}: reading failed: {text[:300]}")


def is_reading_error(dataset: Dataset, error: Exception) -> bool:
    """Whether an error of TensorFlow was raised by the reading of this dataset."""
    # Examples that cannot be parsed are not named by TensorFlow.
    return isinstance(error, _READING_ERRORS) and (
        dataset.directory in str(error) or (dataset.format == 0 and "ParseExample" in str(error))
    )


class _Plan:
    """The pieces of a dataset and the rule of their order; `seed` None is file order."""

    def __init__(self, dataset: Dataset, seed: int | None, window_shards: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.window = window_shards  # pieces in a window
        cut = dataset.format == FORMAT
        if not cut:
            self.window = max(
                1,
                min(
                    window_shards,
                    _MEAD_WINDOW_BYTES // max(shard.bytes for shard in dataset.shards),
                ),
            )
        largest = dataset.piece_samples if cut else max(shard.samples for shard in dataset.shards)
        pieces = [
            (index, at, min(largest, shard.samples - at), int(shard.sums[number], 16) if cut else 0)
            for index, shard in enumerate(dataset.shards)
            for number, at in enumerate(range(0, shard.samples, largest))
        ]
        self.largest = largest
        # Shard, first record, records, checksum.
        self.table = np.array(pieces, np.uint64).view(np.int64)
        self.windows = -(-len(pieces) // self.window)  # in an epoch

    @property
    def samples(self) -> int:
        return self.dataset.num_samples

    def window_of(self, position: int) -> int:
        """The window, counted over all epochs, in which a position lies."""
        epoch, place = divmod(position, self.samples)
        order = np.arange(len(self.table))
        if self.seed is not None:
            order = np.argsort(
                splitmix.draws(splitmix.key_of(self.seed, _SHARDS, epoch), 0, len(order)),
                kind="stable",
            )
        ends = np.cumsum(self.table[order, 2])
        return epoch * self.windows + int(np.searchsorted(ends, place, side="right")) // self.window


def _word(value: int) -> Any:
    return tf.constant(np.uint64(value))


def _mix(value: Any) -> Any:
    """`splitmix.mix` on uint64 tensors."""
    for shift, multiplier in zip(splitmix.SHIFTS, (*splitmix.MULTIPLIERS, 1), strict=True):
        value = tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, _word(shift))) * _word(
            multiplier
        )
    return value


def _permutation(seed: int, words: list[Any], count: Any) -> Any:
    """int64 [count]: order of `splitmix.draws` under the key of seed and words (int64 scalars)."""
    key = _word(splitmix.key_of(seed))
    for word in words:
        key = _mix(
            key + _word(splitmix.STEP) + _mix(tf.cast(word, tf.uint64) + _word(splitmix.STEP))
        )
    draws = _mix(
        tf.cast(tf.range(1, count + 1, dtype=tf.int64), tf.uint64) * _word(splitmix.STEP) + key
    )
    # With their top bits flipped, signed comparison of numbers is unsigned comparison.
    signed = tf.bitcast(tf.bitwise.bitwise_xor(draws, _word(1 << 63)), tf.int64)
    return tf.cast(tf.argsort(signed, stable=True), tf.int64)


@tf.autograph.experimental.do_not_convert
def _read_piece(plan: _Plan, piece: Any) -> Any:
    """A piece's records, checked: uint8 [n, record_bytes], or string [n] for MEAD's.

    piece: a row of the plan's table.
    """
    dataset = plan.dataset
    shard, first, count = piece[0], piece[1], piece[2]
    path = tf.gather(tf.constant([dataset.path(shard) for shard in dataset.shards]), shard)
    if dataset.format != FORMAT:
        return (
            tf.data.TFRecordDataset(path, buffer_size=4 << 20)
            .batch(count, drop_remainder=True)
            .get_single_element()
        )
    size = dataset.layout.record_bytes
    begin, length = first * size, count * size
    rest = (
        tf.gather(tf.constant([shard.bytes for shard in dataset.shards], tf.int64), shard)
        - begin
        - length
    )
    file = tf.data.FixedLengthRecordDataset(
        path, length, header_bytes=begin, footer_bytes=rest, buffer_size=1 << 20
    )
    records = tf.ensure_shape(
        tf.reshape(tf.io.decode_raw(file.get_single_element(), tf.uint8), [-1, size]), [None, size]
    )
    sound = tf.equal(piece_sum(records, plan.largest), piece[3])
    with tf.control_dependencies(
        [tf.debugging.Assert(sound, ["damaged records in", path, "after record", first])]
    ):
        return tf.identity(records)


def _decoder(dataset: Dataset) -> Callable[[Any], dict[str, Any]]:
    given = (dataset.lengths, dataset.vocab_size, dataset.directory)
    return decoder(dataset.layout, *given) if dataset.format == FORMAT else mead_decoder(*given)


def _batches(
    plan: _Plan, start: int, batch_size: int, hosts: int, host: int, readers: int
) -> tf.data.Dataset:
    if start < 0 or not 0 <= host < hosts:
        raise UsageError(f"position {start}, host {host} of {hosts}: out of range")
    if batch_size % hosts:
        raise UsageError(
            f"--batch_size {batch_size} cannot be divided among {hosts} hosts: take a multiple of "
            f"{hosts}"
        )
    dataset, rows = plan.dataset, batch_size // hosts
    block = max(1, _BLOCK_ROWS // rows) * rows
    decode = _decoder(dataset)

    @tf.autograph.experimental.do_not_convert
    def load(number: Any) -> tuple[Any, Any, Any]:
        """A window: its records; of each of this host's examples, index among them and position."""
        table = tf.constant(plan.table)
        epoch, inside = number // plan.windows, number % plan.windows
        if plan.seed is not None:
            table = tf.gather(table, _permutation(plan.seed, [_SHARDS, epoch], len(plan.table)))
        pieces = table[inside * plan.window : (inside + 1) * plan.window]
        count = tf.reduce_sum(pieces[:, 2])
        begin = epoch * plan.samples + tf.reduce_sum(table[: inside * plan.window, 2])
        reading = tf.data.Dataset.from_tensor_slices(pieces)
        reading = reading.map(
            lambda piece: _read_piece(plan, piece), num_parallel_calls=readers, deterministic=True
        )
        records = reading.rebatch(count).get_single_element()
        order = (
            tf.range(count)
            if plan.seed is None
            else _permutation(plan.seed, [_ROWS, epoch, inside], count)
        )
        skipped = tf.maximum(tf.constant(start, tf.int64) - begin, 0)
        order = order[skipped:]
        positions = tf.range(begin + skipped, begin + count)
        if hosts > 1:
            mine = (positions - start) % batch_size // rows == host
            order, positions = tf.boolean_mask(order, mine), tf.boolean_mask(positions, mine)
        return records, order, positions

    @tf.autograph.experimental.do_not_convert
    def blocks(records: Any, order: Any, positions: Any) -> tf.data.Dataset:
        count = tf.size(order, tf.int64)

        @tf.autograph.experimental.do_not_convert
        def take(at: Any) -> dict[str, Any]:
            some = tf.range(at, tf.minimum(at + block, count))
            # Gathered, not sliced: a slice shares the memory of the whole, and when `rebatch` joins
            # such a one TensorFlow logs an error, though there is none.
            return {
                **decode(tf.gather(records, tf.gather(order, some))),
                "position": tf.gather(positions, some),
            }

        return tf.data.Dataset.range(0, count, block).map(
            take, num_parallel_calls=2, deterministic=True
        )

    numbers = tf.data.Dataset.range(plan.window_of(start), _ENDLESS)
    windows = numbers.map(load).prefetch(1)  # the next window is read while this one is used
    return windows.flat_map(blocks).rebatch(rows, drop_remainder=True).prefetch(8)
