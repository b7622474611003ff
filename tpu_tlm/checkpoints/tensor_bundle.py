"""TensorFlow checkpoint files: named arrays written by TensorFlow, and read back from bytes that were already checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

INDEX = ".index"
DATA = ".data-00000-of-00001"

_FOOTER = 48
_MAGIC = 0xDB4775248B80FB57


def write(prefix: str, variables: Mapping[str, Any]) -> None:
    """Write `prefix`.index and `prefix`.data-00000-of-00001 (local path), which tf.train.load_checkpoint reads.

    variables: name -> tf.Variable, tensor or array of numbers; TypeError for anything else.
    """
    import tensorflow as tf

    tensors = []
    # A TPU of another machine has made that machine the place of whatever has no other: this is to be written here.
    with tf.device(None), tf.device("CPU:0"):
        for name, variable in variables.items():
            tensor = tf.convert_to_tensor(
                variable.numpy() if hasattr(variable, "numpy") else np.asarray(variable)
            )
            if tensor.dtype in (tf.string, tf.resource, tf.variant):
                raise TypeError(f"variable {name!r} has no numbers but {tensor.dtype.name}")
            tensors.append(tensor)
        tf.raw_ops.SaveV2(
            prefix=prefix,
            tensor_names=list(variables),
            shape_and_slices=[""] * len(tensors),
            tensors=tensors,
        )


def read(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """Name -> array out of the bytes of the two files: read-only views of `data`, nothing is copied.

    Reading from bytes is what lets a caller use exactly what it has hashed, with one pass over the disk or the network.
    ValueError when the bytes are no such files.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import tensor_bundle_pb2

    arrays: dict[str, np.ndarray] = {}
    for key, value in _table(index):
        if not key:
            header = tensor_bundle_pb2.BundleHeaderProto.FromString(value)
            if (
                header.num_shards != 1
                or header.endianness != tensor_bundle_pb2.BundleHeaderProto.LITTLE
            ):
                raise ValueError(
                    f"checkpoint of {header.num_shards} data files, or big-endian: one, little-endian, is what is read"
                )
            continue
        entry = tensor_bundle_pb2.BundleEntryProto.FromString(value)
        shape = [dim.size for dim in entry.shape.dim]
        dtype = np.dtype(tf.dtypes.as_dtype(entry.dtype).as_numpy_dtype)
        count = int(np.prod(shape, dtype=np.int64))
        if (
            entry.slices
            or count * dtype.itemsize != entry.size
            or entry.offset + entry.size > len(data)
        ):
            raise ValueError(f"checkpoint index does not fit its data at {key.decode()!r}")
        arrays[key.decode()] = np.frombuffer(data, dtype, count, entry.offset).reshape(shape)
    return arrays


def _table(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a sorted string table (LevelDB's layout: data blocks, a block that indexes them, a footer)."""
    if len(raw) < _FOOTER or int.from_bytes(raw[-8:], "little") != _MAGIC:
        raise ValueError("not the index of a TensorFlow checkpoint")
    footer = raw[-_FOOTER:]
    _, position = _varint(footer, 0)
    _, position = _varint(footer, position)
    for _, handle in _block(raw, footer, position):
        yield from _block(raw, handle, 0)


def _block(raw: bytes, handle: bytes, position: int) -> Iterator[tuple[bytes, bytes]]:
    """Entries of the block at the (offset, size) that `handle` holds from `position`; keys share prefixes with the one before."""
    offset, position = _varint(handle, position)
    size, _ = _varint(handle, position)
    if raw[offset + size] != 0:
        raise ValueError("compressed checkpoint index")
    block = raw[offset : offset + size]
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    position, key = 0, b""
    while position < end:
        shared, position = _varint(block, position)
        fresh, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + fresh]
        position += fresh
        yield key, block[position : position + length]
        position += length


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
