"""A checksum that a graph computes as fast as it reads: weighted sums of 64-bit words mod 2^64.

Every weight is odd, so any change within one word changes the sum; other damage passes with a
probability of about 2^-64. TFRecord's own CRC-32C is in the files, too, but a graph without
TensorFlow's reader would spend most of its time on it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tpu_tlm.data.dataset.splitmix import draws, key_of

_COLUMN, _ROW = 1, 2


def column_weights(record_bytes: int) -> NDArray[np.uint64]:
    """uint64 [ceil(record_bytes / 8)]: weight of each word of a record, the last zero-padded."""
    return draws(key_of(_COLUMN), 0, -(-record_bytes // 8)) | np.uint64(1)


def row_weights(rows: int) -> NDArray[np.uint64]:
    """uint64 [rows]: the weight of each record of a piece."""
    return draws(key_of(_ROW), 0, rows) | np.uint64(1)


def record_sums(records: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The weighted sum of the words of each record: uint8 [n, record_bytes] -> uint64 [n]."""
    weights = column_weights(records.shape[1])
    padded = np.zeros((len(records), len(weights) * 8), np.uint8)
    padded[:, : records.shape[1]] = records
    return (padded.view("<u8") * weights).sum(axis=1, dtype=np.uint64)


def piece_sums(sums: NDArray[np.uint64], piece_samples: int) -> list[str]:
    """From `record_sums`, the checksum of each piece of `piece_samples` records, as 16 hex digits.

    The last piece may have fewer records.
    """
    weights = row_weights(min(piece_samples, len(sums)))
    pieces = (sums[at : at + piece_samples] for at in range(0, len(sums), piece_samples))
    return [f"{int((piece * weights[: len(piece)]).sum(dtype=np.uint64)):016x}" for piece in pieces]
