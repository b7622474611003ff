"""TensorFlow checkpoint files: written by TensorFlow, read from bytes that were already checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tpu_tlm.filesystem.tensorflow_files import as_os_error

INDEX = ".index"
DATA = ".data-00000-of-00001"

_FOOTER = 48
_MAGIC = 0xDB4775248B80FB57


def write(prefix: str, variables: Mapping[str, Any]) -> None:
    """Write `prefix`.index and `prefix`.data-00000-of-00001, for tf.train.load_checkpoint.

    prefix: a local path; variables: name -> tf.Variable, tensor or array of numbers. Raises
    `TypeError` for anything else, `OSError` when the files cannot be written.
    """
    import tensorflow as tf

    tensors = []
    # With a TPU of another machine, that machine is the default device: this is written here.
    with tf.device(None), tf.device("CPU:0"):
        for name, variable in variables.items():
            tensor = tf.convert_to_tensor(
                variable.numpy() if hasattr(variable, "numpy") else np.asarray(variable)
            )
            if tensor.dtype in (tf.string, tf.resource, tf.variant):
                raise TypeError(f"variable {name!r} has no numbers but {tensor.dtype.name}")
            tensors.append(tensor)
        try:
            tf.raw_ops.SaveV2(
                prefix=prefix,
                tensor_names=list(variables),
                shape_and_slices=[""] * len(tensors),
                tensors=tensors,
            )
        except tf.errors.OpError as error:
            # Disk full, no permission: TensorFlow has a kind of its own for each.
            raise as_os_error(error) from None


def read(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """Name -> array from the bytes of the two files: read-only views of `data`, without a copy.

    Reading from bytes lets a caller use exactly what it has hashed, with one pass over the disk or
    the network. Raises `ValueError` when the bytes are not such files.
    """
    try:
        return _arrays(index, data)
    except (IndexError, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(f"not the index of a TensorFlow checkpoint ({error})") from None


def _arrays(index: bytes, data: bytes) -> dict[str, np.ndarray]:
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
                    f"checkpoint of {header.num_shards} data files, or big-endian: only one, "
                    "little-endian, can be read"
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
    """Keys and values of a sorted string table.

    LevelDB's layout: data blocks, a block that indexes them, a footer.
    """
    if len(raw) < _FOOTER or int.from_bytes(raw[-8:], "little") != _MAGIC:
        raise ValueError("not the index of a TensorFlow checkpoint")
    footer = raw[-_FOOTER:]
    _, position = _varint(footer, 0)
    _, position = _varint(footer, position)
    for _, handle in _block(raw, footer, position):
        yield from _block(raw, handle, 0)


def _block(raw: bytes, handle: bytes, position: int) -> Iterator[tuple[bytes, bytes]]:
    """Entries of the block whose offset and size stand in `handle` from `position` on.

    A key shares a prefix with the key before it.
    """
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
    while shift < 70:
        byte = raw[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a number of more than 64 bits in the index of a checkpoint")
