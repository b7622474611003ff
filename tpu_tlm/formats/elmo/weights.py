"""Arrays of an HDF5 file that another program wrote, without following it anywhere else."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np

from tpu_tlm.errors import TlmError

# Names in the tree, groups included; an ELMo of 64 layers has fewer.
_MOST_NAMES = 10_000


@contextmanager
def opened(data: bytes, path: str) -> Iterator[h5py.File]:
    """The HDF5 file of `data`. Raises `TlmError` naming `path` where it is damaged."""
    try:
        file = h5py.File(io.BytesIO(data), "r")
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:120]
        raise TlmError(f"{path}: is not an HDF5 file, or is damaged ({reason})") from None
    with file:
        yield file


def names_of(file: h5py.File, path: str) -> list[str]:
    """Names of the datasets. Raises `TlmError` for a link to another place, which could be another
    file, and for more names than a model has."""
    found: list[str] = []
    seen: set[Any] = set()
    waiting: list[tuple[str, Any]] = [("", file)]
    count = 0
    while waiting:
        base, group = waiting.pop()
        for key in group:
            name = f"{base}{key}"
            count += 1
            if count > _MOST_NAMES:
                raise TlmError(f"{path}: has more than {_MOST_NAMES:,} names")
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise TlmError(f"{path}: {name[:80]!r} is a link; only plain arrays are read")
            try:
                item = group[key]
            except (OSError, RuntimeError, KeyError, ValueError) as error:
                raise TlmError(f"{path}: {name[:80]!r} is damaged ({error})") from None
            if isinstance(item, h5py.Dataset):
                found.append(name)
            elif isinstance(item, h5py.Group):
                identity = h5py.h5o.get_info(item.id).addr
                if identity in seen:
                    raise TlmError(f"{path}: {name[:80]!r} is a group that contains itself")
                seen.add(identity)
                waiting.append((f"{name}/", item))
    return found


def read_array(file: h5py.File, name: str, shape: tuple[int, ...], path: str) -> np.ndarray:
    """One float array as float32. Raises `TlmError` naming file and array where it has another
    shape or type, is stored outside of the file, or holds fewer bytes than its shape says."""
    data = file.get(name)
    if not isinstance(data, h5py.Dataset):
        raise TlmError(f"{path}: has no array {name!r}, which its options need")
    if tuple(data.shape or ()) != shape:
        raise TlmError(
            f"{path}: {name!r} has shape {list(data.shape or ())}, its options say {list(shape)}"
        )
    if data.dtype.kind != "f" or data.dtype.itemsize not in (2, 4, 8):
        raise TlmError(f"{path}: {name!r} holds {data.dtype}; floating-point numbers are needed")
    plain = not data.is_virtual and not data.external and data.compression is None
    if not plain or data.id.get_storage_size() < data.size * data.dtype.itemsize:
        raise TlmError(
            f"{path}: {name!r} is compressed, incomplete or stored outside of the file; such "
            "arrays are not read"
        )
    try:
        value = np.asarray(data[()], np.float32)
    except (OSError, RuntimeError, ValueError) as error:
        raise TlmError(f"{path}: {name!r} cannot be read ({error})") from None
    if not np.isfinite(value).all():
        raise TlmError(f"{path}: {name!r} holds values that are not finite")
    return value


def written(values: dict[str, np.ndarray]) -> bytes:
    """The bytes of an HDF5 file with float32 arrays by name."""
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        for name, value in values.items():
            file.create_dataset(name, data=np.asarray(value, np.float32))
    return data.getvalue()
