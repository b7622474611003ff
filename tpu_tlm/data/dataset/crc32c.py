"""CRC-32C (Castagnoli) of many equally long messages at once, and TFRecord's masked form of it."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed
_BLOCK = 8192  # rows per pass: the running values and one column stay in the second-level cache


@functools.cache
def byte_table() -> NDArray[np.uint32]:
    """The 256 values of the classic byte-wise algorithm."""
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = (crc >> np.uint32(1)) ^ np.where(
            crc & np.uint32(1), np.uint32(_POLYNOMIAL), np.uint32(0)
        )
    return crc


def _zero_byte(crc: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Run one zero byte through running values."""
    return (crc >> np.uint32(8)) ^ byte_table()[crc & np.uint32(0xFF)]


@functools.cache
def _word_tables() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Tables for the lower and the upper half of a 32-bit word: one step takes four bytes."""
    halves = np.arange(65536, dtype=np.uint32)
    upper = _zero_byte(_zero_byte(halves))
    return _zero_byte(_zero_byte(upper)), upper


def _linear(rows: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The CRC's linear part (start 0, no final inversion); leading zero bytes do not change it."""
    count, length = rows.shape
    lower, upper = _word_tables()
    out = np.empty(count, np.uint32)
    words = -(-length // 4)
    for start in range(0, count, _BLOCK):
        block = rows[start : start + _BLOCK]
        padded = np.zeros((len(block), words * 4), np.uint8)
        padded[:, words * 4 - length :] = block
        columns = np.ascontiguousarray(padded.view("<u4").T)
        crc = np.zeros(len(block), np.uint32)
        for column in columns:
            np.bitwise_xor(crc, column, out=column)
            crc = lower.take(column & np.uint32(0xFFFF))
            crc ^= upper.take(column >> np.uint32(16))
        out[start : start + _BLOCK] = crc
    return out


@functools.lru_cache(maxsize=64)
def _inversion(length: int) -> int:
    """What the CRC's initial and final inversions add to the linear part of a message of this length."""
    crc = np.array([0xFFFFFFFF], np.uint32)
    for _ in range(length):
        crc = _zero_byte(crc)
    return int(crc[0]) ^ 0xFFFFFFFF


def crc32c_rows(rows: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """CRC-32C of every row: uint8 [n, length] -> uint32 [n]."""
    return _linear(rows) ^ np.uint32(_inversion(rows.shape[1]))


def crc32c(data: bytes) -> int:
    """CRC-32C of one message (for headers and tests; slow on long ones)."""
    return int(crc32c_rows(np.frombuffer(data, np.uint8).reshape(1, -1))[0])


def masked(crc: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """TFRecord's masking of CRCs: rotate right by 15 bits and add a constant."""
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)
