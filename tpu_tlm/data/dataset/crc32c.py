"""CRC-32C (Castagnoli) of many equally long messages, and TFRecord's masked form of it."""

from __future__ import annotations

import google_crc32c
import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 4 << 20  # bytes that are copied into messages at a time


def crc32c_rows(rows: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """CRC-32C of every row: uint8 [n, length] -> uint32 [n]."""
    count, length = rows.shape
    out = np.zeros(count, np.uint32)
    if length == 0:
        return out
    step = max(1, _AT_ONCE // length)
    for at in range(0, count, step):
        block = np.ascontiguousarray(rows[at : at + step])
        # A list of bytes objects made at once: slicing them in Python costs twice as much.
        messages = block.view(f"V{length}")[:, 0].tolist()
        out[at : at + step] = np.fromiter(
            map(google_crc32c.value, messages), np.uint32, len(messages)
        )
    return out


def crc32c(data: bytes) -> int:
    """CRC-32C of one message."""
    return int(google_crc32c.value(data))


def masked(crc: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """TFRecord's masking of CRCs: rotate right by 15 bits and add a constant."""
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)
