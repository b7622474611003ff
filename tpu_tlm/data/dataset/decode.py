"""Records -> tensors inside a graph: many at a time, without a call into Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tpu_tlm.data.dataset.checksums import column_weights, row_weights
from tpu_tlm.data.dataset.records import Layout

Features = dict[str, Any]


OUTSIDE = "ids outside of the vocabulary in"


def decoder(
    layout: Layout, lengths: Mapping[str, int], vocab_size: int | None, where: str
) -> Callable[[Any], Features]:
    """A function from records, uint8 [n, record_bytes], to features.

    They are {"x": int32 [n, seq_length], "w": uint8 [n, ceil(seq_length / 8)]}, of pairs also "y".
    All records have the layout's bytes but for their payload (which their checksum proves), so
    decoding is taking columns. Ids that are not below `vocab_size` raise an error of TensorFlow
    that names `where`.
    """
    sizes = {feature.name: feature.size for feature in layout.features}
    offsets = layout.offsets
    wide = sizes["x"] // lengths["x"]  # bytes of a token id

    def decode(records: Any) -> Features:
        raw = {
            name: records[:, offsets[name] : offsets[name] + size] for name, size in sizes.items()
        }
        for name, length in lengths.items():
            ids = tf.bitcast(
                tf.reshape(raw[name], [-1, length, wide]), tf.uint16 if wide == 2 else tf.int32
            )
            raw[name] = _below(tf.cast(ids, tf.int32), _limit(vocab_size, wide), where)
        return raw

    return decode


def _limit(vocab_size: int | None, wide: int) -> int | None:
    """The size that ids of so many bytes can exceed; None: none of them can."""
    return None if vocab_size is None or (wide == 2 and vocab_size > 0xFFFF) else vocab_size


def _below(ids: Any, limit: int | None, where: str) -> Any:
    """`ids` (int32), after an assertion that all are from 0 to `limit` - 1."""
    if limit is None:
        return ids
    # Unsigned, so that one comparison finds negative ids, too.
    largest = tf.reduce_max(tf.bitcast(ids, tf.uint32))
    fits = tf.cast(largest, tf.int64) < limit
    with tf.control_dependencies([tf.debugging.Assert(fits, [OUTSIDE, where])]):
        return tf.identity(ids)


def piece_sum(records: Any, largest: int) -> Any:
    """`checksums.piece_sums` of one piece: uint8 [n, record_bytes] -> int64 scalar.

    largest: n is at most this.
    """
    columns = column_weights(records.shape[1]).view(np.int64)
    padded = tf.pad(records, [[0, 0], [0, len(columns) * 8 - records.shape[1]]])
    words = tf.bitcast(tf.reshape(padded, [-1, len(columns), 8]), tf.int64)
    rows = tf.constant(row_weights(largest).view(np.int64))[: tf.shape(records)[0]]
    return tf.reduce_sum(tf.linalg.matvec(words, tf.constant(columns)) * rows)


def mead_decoder(
    lengths: Mapping[str, int], vocab_size: int | None, where: str
) -> Callable[[Any], Features]:
    """A function from serialized Examples, string [n], to int32 [n, length] of MEAD's features.

    Other lengths than these, and ids outside of the vocabulary, raise an error that names `where`.
    """
    spec = {name: tf.io.RaggedFeature(tf.int64) for name in lengths}

    def decode(records: Any) -> Features:
        found = {}
        for name, ragged in tf.io.parse_example(records, spec).items():
            length = lengths[name]
            same = tf.reduce_all(tf.equal(ragged.row_lengths(), length))
            with tf.control_dependencies(
                [tf.debugging.Assert(same, ["records of different lengths in", where])]
            ):
                wide = tf.reshape(ragged.flat_values, [-1, length])
            # An id that int32 cannot hold becomes -1, which no vocabulary has.
            whole = tf.cast(wide, tf.int32)
            ids = tf.where(tf.equal(tf.cast(whole, tf.int64), wide), whole, -1)
            found[name] = _below(ids, vocab_size, where)
        return found

    return decode
