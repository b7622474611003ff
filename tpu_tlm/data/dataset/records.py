"""The bytes of a record: a `tf.train.Example` of fixed-length byte features, from a template.

Records of one layout differ only in their payload, so a block of records is one array: the template
repeated, the payload and the checksums of TFRecord's framing written into their columns. No
protocol-buffer object is made for a record, neither in writing nor in reading.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tpu_tlm.data.dataset.crc32c import crc32c_rows, masked

_HEAD = 12  # length (8 bytes) and its checksum (4), before the message
_FOOT = 4  # checksum of the message


@dataclass(frozen=True)
class Feature:
    """A byte feature of an Example: its name, and its length in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Layout:
    """The features of a record; their bytes one after the other are the payload of a record."""

    features: tuple[Feature, ...]

    @property
    def payload_bytes(self) -> int:
        """Bytes of a record that differ between records."""
        return sum(feature.size for feature in self.features)

    @property
    def record_bytes(self) -> int:
        """Bytes of a record in the file, framing included."""
        return len(_template(self)[0])

    @property
    def template(self) -> NDArray[np.uint8]:
        """uint8 [record_bytes]: a record whose payload and final checksum are zero."""
        return _template(self)[0]

    @property
    def offsets(self) -> Mapping[str, int]:
        """Where the bytes of each feature begin in a record."""
        return _template(self)[1]

    @property
    def message(self) -> slice:
        """The serialized Example inside a record."""
        return slice(_HEAD, self.record_bytes - _FOOT)

    def token_ids(
        self, records: NDArray[np.uint8], lengths: Mapping[str, int]
    ) -> dict[str, NDArray[np.unsignedinteger]]:
        """Ids of the features in `lengths` (tokens of each): [n, record_bytes] -> [n, length]."""
        sizes, found = {feature.name: feature.size for feature in self.features}, {}
        for name, length in lengths.items():
            at = self.offsets[name]
            columns = np.ascontiguousarray(records[:, at : at + sizes[name]])
            found[name] = columns.view(f"<u{sizes[name] // length}")
        return found

    def frame(self, payload: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Records around payloads: uint8 [n, payload_bytes] -> uint8 [n, record_bytes]."""
        template, offsets = _template(self)
        records = np.empty((len(payload), len(template)), np.uint8)
        records[:] = template
        place = 0
        for feature in self.features:
            start = offsets[feature.name]
            records[:, start : start + feature.size] = payload[:, place : place + feature.size]
            place += feature.size
        records[:, -_FOOT:] = _as_bytes(masked(crc32c_rows(records[:, self.message])))
        return records

    def unframe(self, records: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The inverse of `frame`: uint8 [n, record_bytes] -> payloads, and bool [n]: undamaged."""
        sound = (
            records[:, -_FOOT:] == _as_bytes(masked(crc32c_rows(records[:, self.message])))
        ).all(axis=1)
        fixed = np.ones(self.record_bytes, bool)
        fixed[-_FOOT:] = False
        payload = []
        for feature in self.features:
            start = self.offsets[feature.name]
            fixed[start : start + feature.size] = False
            payload.append(records[:, start : start + feature.size])
        sound &= (records[:, fixed] == self.template[fixed]).all(axis=1)
        return np.concatenate(payload, axis=1), sound


def token_dtype(vocab_size: int) -> str:
    """numpy's name of the little-endian integer that holds every id of a vocabulary."""
    return "<u2" if vocab_size <= 65536 else "<u4"


def token_layout(seq_length: int, vocab_size: int, seq_length_y: int | None = None) -> Layout:
    """The layout of format 1.

    `x`: token ids; `w`: a bit per token of `x`, set where a word begins; pairs add `y`: token ids.
    """
    wide = np.dtype(token_dtype(vocab_size)).itemsize
    pair = () if seq_length_y is None else (Feature("y", seq_length_y * wide),)
    return Layout((Feature("w", -(-seq_length // 8)), Feature("x", seq_length * wide), *pair))


def token_payload(
    ids: NDArray[np.integer],
    word_start: NDArray[np.bool_],
    vocab_size: int,
    y: NDArray[np.integer] | None = None,
) -> NDArray[np.uint8]:
    """Payloads of format 1, uint8 [n, payload_bytes].

    ids: [n, seq_length]; word_start: bool of the same shape; y: of pairs, [n, seq_length_y].
    """
    parts = [np.packbits(word_start, axis=1, bitorder="little")]
    for tokens in (ids,) if y is None else (ids, y):
        parts.append(np.ascontiguousarray(tokens, dtype=token_dtype(vocab_size)).view(np.uint8))
    return np.concatenate(parts, axis=1)


def _as_bytes(values: NDArray[np.uint32]) -> NDArray[np.uint8]:
    return values.astype("<u4").view(np.uint8).reshape(-1, 4)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited protocol-buffer field."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


@functools.lru_cache(maxsize=16)
def _template(layout: Layout) -> tuple[NDArray[np.uint8], Mapping[str, int]]:
    """A record with a zero payload and final checksum; where each feature's bytes begin."""
    entries = []
    ends = []
    total = 0
    for feature in layout.features:
        # Example.features (1) . feature map entry (1): key (1), value (2) = Feature.bytes_list (1)
        # . value (1)
        value = _field(1, _field(1, bytes(feature.size)))
        entries.append(_field(1, _field(1, feature.name.encode()) + _field(2, value)))
        total += len(entries[-1])
        ends.append(total)  # a feature's bytes are the last of its entry
    example = _field(1, b"".join(entries))
    start = _HEAD + len(example) - total
    offsets = {
        feature.name: start + end - feature.size
        for feature, end in zip(layout.features, ends, strict=True)
    }
    length = np.frombuffer(len(example).to_bytes(8, "little"), np.uint8)
    head = np.concatenate([length, _as_bytes(masked(crc32c_rows(length.reshape(1, 8))))[0]])
    template = np.concatenate([head, np.frombuffer(example, np.uint8), np.zeros(_FOOT, np.uint8)])
    template.setflags(write=False)
    return template, offsets
