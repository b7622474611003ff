"""MEAD's own records: TFRecord files of int64 features `x` (and `y`).

Its `md.yml` says nothing of their lengths: the first record does, and all others must agree.
"""

from __future__ import annotations

import contextlib
import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

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
    """Where each record begins, and the end; `TlmError` when the last does not end the file."""
    places = []
    at, size, read_length = 0, len(content), struct.Struct("<Q").unpack_from
    while at < size:
        places.append(at)
        if at + _HEAD > size:
            break
        at += read_length(content, at)[0] + _HEAD + _FOOT
    if at != size:
        raise TlmError(
            f"{path}: record {len(places) - 1} is cut off or damaged: restore the file or "
            "preprocess again"
        )
    return np.array([*places, size], np.int64)


def count(path: str) -> int:
    """Records in a file."""
    with _content(path) as content:
        return len(_places(content, path)) - 1


def first_lengths(path: str) -> dict[str, int]:
    """The int64 features of the first record and their lengths, such as {"x": 128, "y": 128}."""
    with _content(path) as content:
        places = _places(content, path)
        features = _features(path, 0, content[_HEAD : int(places[1]) - _FOOT])
    lengths = {
        name: len(features[name].int64_list.value) for name in ("x", "y") if name in features
    }
    if not lengths.get("x"):
        found = ", ".join(sorted(features)) or "nothing"
        raise UsageError(f"{path}: its records have no int64 feature 'x' (found: {found})")
    if lengths.get("y") == 0:
        raise UsageError(f"{path}: the feature 'y' of its first record holds no int64: remove it")
    return lengths


def _features(path: str, number: int, message: bytes) -> Mapping[str, Any]:
    import tensorflow as tf

    try:
        return tf.train.Example.FromString(message).features.feature  # type: ignore[no-any-return]
    except Exception as error:  # protobuf's DecodeError has several homes
        raise TlmError(
            f"{path}: record {number} is no tf.train.Example ({error}): preprocess again"
        ) from None


def check(
    path: str, lengths: Mapping[str, int], vocab_size: int | None, most_bytes: int | None = None
) -> None:
    """Raise `UsageError` where a record has other lengths than the first, or an id is outside.

    vocab_size: ids are below it, None where nothing says. most_bytes: of the file, None: all.
    """
    with _content(path) as content:
        places = _places(content, path)
        last = len(places) - 1
        if most_bytes is not None:
            last = min(last, max(1, int(np.searchsorted(places, most_bytes))))
        for number in range(last):
            message = content[int(places[number]) + _HEAD : int(places[number + 1]) - _FOOT]
            features = _features(path, number, message)
            for name, length in lengths.items():
                values = features[name].int64_list.value if name in features else ()
                if len(values) != length:
                    raise UsageError(
                        f"{path}: record {number} has {len(values)} ids in {name!r}, the first "
                        f"record has {length}: pad them or preprocess again"
                    )
                if vocab_size is not None:
                    check_ids(path, name, np.array([values]), vocab_size, number)


def check_ids(
    path: str, name: str, ids: NDArray[np.integer], vocab_size: int, first: int = 0
) -> None:
    """Raise `UsageError` naming the first record [n, length] with an id outside of the vocabulary.

    first: number of the first of these records in the file.
    """
    if not ids.size or (int(ids.max()) < vocab_size and int(ids.min()) >= 0):
        return
    row, column = np.argwhere((ids >= vocab_size) | (ids < 0))[0]
    raise UsageError(
        f"{path}: record {first + int(row)} has the id {int(ids[row, column])} in {name!r}, "
        f"outside of the vocabulary of {vocab_size}: preprocess again, or give the tokenizer that "
        "made it"
    )


def verify(path: str) -> None:
    """Check both checksums of every record; `TlmError` naming the first damaged one."""
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
