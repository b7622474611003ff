"""TensorFlow checkpoint files: written by TensorFlow, read array by array from a checked file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tpu_tlm.checkpoints.data_file import DataFile
from tpu_tlm.filesystem.tensorflow_files import as_os_error

if TYPE_CHECKING:
    import tensorflow as tf

INDEX = ".index"
DATA = ".data-00000-of-00001"

_FOOTER = 48
_MAGIC = 0xDB4775248B80FB57


def write(prefix: str, variables: Mapping[str, Any]) -> None:
    """Write `prefix`.index and `prefix`.data-00000-of-00001, for tf.train.load_checkpoint.

    prefix: a local path; variables: name -> tf.Variable, tensor or array of numbers; tensors on the
    CPU are written without a copy. Raises `TypeError` for anything else, `OSError` when the files
    cannot be written.
    """
    import tensorflow as tf

    tensors = []
    # With a TPU of another machine, that machine is the default device: this is written here.
    with tf.device(None), tf.device("CPU:0"):
        for name, variable in variables.items():
            tensor = (
                host_tensor(variable)
                if isinstance(variable, tf.Tensor)
                else tf.convert_to_tensor(
                    variable.numpy() if hasattr(variable, "numpy") else np.asarray(variable)
                )
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


def on_host(tensor: tf.Tensor) -> bool:
    """Whether the tensor is in the memory of this machine's processors."""
    import tensorflow as tf

    return bool(tf.DeviceSpec.from_string(tensor.device).device_type == "CPU")


def host_tensor(tensor: tf.Tensor) -> tf.Tensor:
    """The tensor in the memory of this machine; a copy, unless it is there already."""
    import tensorflow as tf

    if on_host(tensor):
        return tensor
    # With a TPU of another machine, that machine is the default device.
    with tf.device(None), tf.device("CPU:0"):
        return tf.identity(tensor)


class Tensors(Mapping[str, np.ndarray]):
    """Name -> array (read-only) of a checkpoint; every access reads that array from the data file.

    index: the bytes of the index file. Raises `ValueError` when these are not such files.
    """

    def __init__(self, index: bytes, data: DataFile) -> None:
        self._data = data
        try:
            self._entries = _entries(index, data.size)
        except (IndexError, OverflowError, UnicodeDecodeError) as error:
            raise ValueError(f"not the index of a TensorFlow checkpoint ({error})") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        array = np.empty(entry.shape, entry.dtype)
        if array.size:
            # As bytes: not every type of number has a buffer of its own.
            self._data.read_into(memoryview(array.reshape(-1).view(np.uint8)), entry.offset)
        array.flags.writeable = False
        return array


class _Entry(NamedTuple):
    """Where an array is in the data file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int


def _entries(index: bytes, data_size: int) -> dict[str, _Entry]:
    import tensorflow as tf
    from tensorflow.core.protobuf import tensor_bundle_pb2

    entries: dict[str, _Entry] = {}
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
        shape = tuple(dim.size for dim in entry.shape.dim)
        dtype = np.dtype(tf.dtypes.as_dtype(entry.dtype).as_numpy_dtype)
        if (
            entry.slices
            or int(np.prod(shape, dtype=np.int64)) * dtype.itemsize != entry.size
            or entry.offset + entry.size > data_size
        ):
            raise ValueError(f"checkpoint index does not fit its data at {key.decode()!r}")
        entries[key.decode()] = _Entry(dtype, shape, entry.offset)
    return entries


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
