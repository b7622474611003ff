"""Safetensors files: eight bytes of length, a JSON header, raw little-endian arrays."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from tpu_tlm.errors import TlmError

# The package `safetensors` gives no bfloat16 through NumPy, and the format is a page long: so it is read and written here.
_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?"},
    **{
        "I64": "<i8",
        "I32": "<i4",
        "I16": "<i2",
        "I8": "i1",
        "U64": "<u8",
        "U32": "<u4",
        "U16": "<u2",
        "U8": "u1",
    },
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items() if name != "BF16"}
_ALIGN = 8


def decode(data: bytes, where: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by name, and the file's metadata.

    float16, bfloat16 and float64 become float32; the rest are read-only views of `data`. Raises `TlmError` naming `where` when the
    header is damaged, an array does not fit its shape, or arrays overlap, leave gaps or end before the file does.
    """
    if len(data) < 8 or not 2 <= (size := struct.unpack("<Q", data[:8])[0]) <= len(data) - 8:
        raise TlmError(f"{where}: is not a safetensors file, or is cut off")
    try:
        header: dict[str, Any] = json.loads(data[8 : 8 + size])
        metadata = dict(header.pop("__metadata__", None) or {})
        entries = sorted(
            (entry["data_offsets"], name, entry["dtype"], tuple(entry["shape"]))
            for name, entry in header.items()
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TlmError(f"{where}: damaged safetensors header ({error})") from None
    arrays: dict[str, np.ndarray] = {}
    at, base = 0, 8 + size
    for (begin, end), name, kind, shape in entries:
        if kind not in _DTYPES:
            raise TlmError(f"{where}: {name!r} has dtype {kind}, which is not covered")
        dtype, count = np.dtype(_DTYPES[kind]), int(np.prod(shape, dtype=np.int64))
        if begin != at or end - begin != count * dtype.itemsize or base + end > len(data):
            raise TlmError(
                f"{where}: {name!r} does not fit the file (bytes {begin} to {end} for shape {list(shape)} of {kind})"
            )
        array = np.frombuffer(data, dtype, count, base + begin).reshape(shape)
        if kind == "BF16":  # the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        arrays[name] = array.astype(np.float32) if kind in ("F16", "F64") else array
        at = end
    if base + at != len(data):
        raise TlmError(f"{where}: has {len(data) - base - at} bytes after its last array")
    return arrays, metadata


def encode(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a file with these arrays in the order of their names. Raises TypeError for a dtype that the format has not."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    bodies: list[bytes] = []
    at = 0
    for name in sorted(arrays):
        array = np.asarray(arrays[name], arrays[name].dtype.newbyteorder("<"))
        if array.dtype not in _NAMES:
            raise TypeError(
                f"{name!r} has dtype {array.dtype}, which a safetensors file cannot hold"
            )
        bodies.append(array.tobytes())
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + len(bodies[-1])],
        }
        at += len(bodies[-1])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGN)
    return b"".join([struct.pack("<Q", len(text)), text, *bodies])
