"""The masked CRC-32C of TFRecord files."""

from __future__ import annotations

import struct

import google_crc32c


def masked_crc(data: bytes) -> bytes:
    """Four bytes, little-endian."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
