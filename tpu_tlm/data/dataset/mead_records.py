"""MEAD's own records: TFRecord files of int64 features `x` (and `y`), of whose lengths its `md.yml` says nothing."""

from __future__ import annotations

import contextlib
import mmap
import re
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tpu_tlm import filesystem
from tpu_tlm.data.dataset.crc32c import crc32c_rows, masked
from tpu_tlm.errors import TlmError, UsageError

_HEAD, _FOOT = 12, 4


def shard_names(directory: str) -> list[str]:
    """The .tfrecord files of a directory; numbers in names are compared as numbers."""
    names = [name for name in filesystem.list_names(directory) if name.endswith(".tfrecord")]
    return sorted(
        names,
        key=lambda name: [
            int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)
        ],
    )


@contextlib.contextmanager
def _content(path: str) -> Iterator[mmap.mmap | bytes]:
    if filesystem.is_remote(path) or filesystem.file_size(path) == 0:
        yield filesystem.read_bytes(path)
        return
    with (
        filesystem.naming(path),
        open(path, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        yield content


def _places(content: mmap.mmap | bytes, path: str) -> NDArray[np.int64]:
    """Where each record begins, and the end; `TlmError` when the lengths do not lead to the end of the file."""
    places = []
    at, size, read_length = 0, len(content), struct.Struct("<Q").unpack_from
    while at < size:
        places.append(at)
        if at + _HEAD > size:
            break
        at += read_length(content, at)[0] + _HEAD + _FOOT
    if at != size:
        raise TlmError(
            f"{path}: record {len(places) - 1} is cut off or damaged: restore the file or preprocess again"
        )
    return np.array([*places, size], np.int64)


def count(path: str) -> int:
    """Records in a file."""
    with _content(path) as content:
        return len(_places(content, path)) - 1


def first_lengths(path: str) -> dict[str, int]:
    """The int64 features of the first record and their lengths, such as {"x": 128, "y": 128}."""
    import tensorflow as tf

    with _content(path) as content:
        places = _places(content, path)
        message = content[_HEAD : int(places[1]) - _FOOT]
    try:
        features = tf.train.Example.FromString(message).features.feature
    except Exception as error:  # protobuf's DecodeError has several homes
        raise TlmError(
            f"{path}: record 0 is no tf.train.Example ({error}): preprocess again"
        ) from None
    lengths = {
        name: len(features[name].int64_list.value) for name in ("x", "y") if name in features
    }
    if not lengths.get("x"):
        raise UsageError(
            f"{path}: its records have no int64 feature 'x' (found: {', '.join(sorted(features)) or 'nothing'})"
        )
    return lengths


def verify(path: str) -> None:
    """Check both checksums of every record; `TlmError` naming the file and the first damaged record."""
    with _content(path) as content:
        places = _places(content, path)
        data = np.frombuffer(content, np.uint8)
        try:
            starts, sizes = places[:-1], np.diff(places)
            bad = _wrong(data, starts, 8)
            for size in np.unique(sizes):
                alike = np.flatnonzero(sizes == size)
                bad[alike] |= _wrong(data, starts[alike] + _HEAD, int(size) - _HEAD - _FOOT)
        finally:
            del data  # a mapped file cannot be closed while an array looks into it
    if bad.any():
        raise TlmError(
            f"{path}: record {int(np.argmax(bad))} is damaged: restore the file or preprocess again"
        )


def _wrong(data: NDArray[np.uint8], starts: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
    """Of messages of one length, which do not match the checksum that follows them."""
    wrong = np.zeros(len(starts), bool)
    step = max(1, (4 << 20) // (length + 4))
    for at in range(0, len(starts), step):
        block = data[starts[at : at + step, None] + np.arange(length + 4)]
        told = np.ascontiguousarray(block[:, length:]).view("<u4")[:, 0]
        wrong[at : at + step] = masked(crc32c_rows(block[:, :length])) != told
    return wrong
