"""Records -> tensors inside a graph: many at a time, without a call into Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tpu_tlm.data.dataset.checksums import column_weights, row_weights
from tpu_tlm.data.dataset.records import Layout

Features = dict[str, Any]


def decoder(layout: Layout, lengths: Mapping[str, int]) -> Callable[[Any], Features]:
    """A function from records, uint8 [n, record_bytes], to {"x": int32 [n, nctx], "w": uint8 [n, ceil(nctx / 8)]}, of pairs also "y".

    All records have the layout's bytes but for their payload (which their checksum proves), so decoding is taking columns.
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
            raw[name] = tf.cast(ids, tf.int32)
        return raw

    return decode


def piece_sum(records: Any, largest: int) -> Any:
    """`sums.piece_sums` of one piece: uint8 [n, record_bytes] -> int64 scalar; n is at most `largest`."""
    columns = column_weights(records.shape[1]).view(np.int64)
    padded = tf.pad(records, [[0, 0], [0, len(columns) * 8 - records.shape[1]]])
    words = tf.bitcast(tf.reshape(padded, [-1, len(columns), 8]), tf.int64)
    rows = tf.constant(row_weights(largest).view(np.int64))[: tf.shape(records)[0]]
    return tf.reduce_sum(tf.linalg.matvec(words, tf.constant(columns)) * rows)


def mead_decoder(lengths: Mapping[str, int]) -> Callable[[Any], Features]:
    """A function from serialized Examples, string [n], to int32 [n, length] for each of MEAD's int64 features."""
    spec = {name: tf.io.FixedLenFeature([length], tf.int64) for name, length in lengths.items()}

    def decode(records: Any) -> Features:
        return {
            name: tf.cast(value, tf.int32)
            for name, value in tf.io.parse_example(records, spec).items()
        }

    return decode
