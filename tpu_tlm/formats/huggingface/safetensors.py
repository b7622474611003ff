"""Safetensors files, read and written by the `safetensors` library after checks of their bounds."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from tpu_tlm.errors import TlmError
from tpu_tlm.formats.json_files import parse_object

# Type in the file -> NumPy type; bfloat16 is the upper half of a float32.
_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"},
}
# The library's own limit.
_LARGEST_HEADER = 100_000_000
_LARGEST_RANK = 16


def _header(data: bytes, where: str) -> tuple[dict[str, Any], int]:
    """The header's entries, and the bytes of all arrays together."""
    if len(data) < 8:
        raise TlmError(f"{where}: is not a safetensors file, or is cut off")
    (size,) = struct.unpack("<Q", data[:8])
    if not 2 <= size <= min(len(data) - 8, _LARGEST_HEADER):
        raise TlmError(
            f"{where}: is not a safetensors file, or is cut off (a header of {size} bytes in a "
            f"file of {len(data)})"
        )
    return parse_object(data[8 : 8 + size], f"{where}: damaged safetensors header"), (
        len(data) - 8 - size
    )


def _whole(values: Any, count: int | None = None) -> bool:
    return (
        isinstance(values, list)
        and (count is None or len(values) == count)
        and all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 2**63 for v in values)
    )


def check_bounds(data: bytes, where: str) -> None:
    """Raise `TlmError` naming file and tensor when the header does not describe the file.

    Types, shapes and offsets are checked against the size of the file before the library
    allocates anything: every array has the bytes of its shape, the arrays follow one another
    without overlap or gap, and the last one ends with the file.
    """
    header, size = _header(data, where)
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    ):
        raise TlmError(f"{where}: damaged safetensors header: __metadata__ must hold strings")
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
        kind = fields.get("dtype")
        shape: Any = fields.get("shape")
        offsets: Any = fields.get("data_offsets")
        if not isinstance(kind, str) or kind not in _DTYPES:
            raise TlmError(f"{where}: {name!r} has dtype {str(kind)[:40]}, which is not supported")
        if not _whole(shape) or len(shape) > _LARGEST_RANK or not _whole(offsets, 2):
            raise TlmError(
                f"{where}: {name!r} has a damaged entry (shape {str(shape)[:60]}, data_offsets "
                f"{str(offsets)[:60]}); whole numbers are needed"
            )
        begin, end = offsets
        needed = math.prod(shape) * np.dtype(_DTYPES[kind]).itemsize
        if not begin <= end <= size or end - begin != needed:
            raise TlmError(
                f"{where}: {name!r} does not fit the file: shape {shape} of {kind} needs {needed} "
                f"bytes, its entry says bytes {begin} to {end} of {size}"
            )
        spans.append((begin, end, name))
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            raise TlmError(
                f"{where}: {name!r} does not fit the file: it begins at byte {begin}, "
                f"the array before it ends at {at}"
            )
        at = end
    if at != size:
        raise TlmError(f"{where}: has {size - at} bytes after its last array")


def decode(data: bytes, where: str) -> dict[str, np.ndarray]:
    """Arrays by name; float16, bfloat16 and float64 become float32.

    Raises `TlmError` naming `where` and the tensor when the file is damaged.
    """
    check_bounds(data, where)
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise TlmError(f"{where}: is not a readable safetensors file ({error})") from None
    arrays: dict[str, np.ndarray] = {}
    for name, entry in entries:
        kind = entry["dtype"]
        array = np.frombuffer(entry["data"], _DTYPES[kind]).reshape(entry["shape"])
        if kind == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        arrays[name] = array.astype(np.float32) if kind in ("F16", "F64") else array
    return arrays


def encode(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file with these arrays."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # The library's writer takes scalars only with their shape, which `ascontiguousarray` changes.
    contiguous |= {name: array for name, array in arrays.items() if array.ndim == 0}
    return safetensors.numpy.save(contiguous, dict(metadata) if metadata else None)
