"""MEAD's NPZ layout: arrays by its keys <-> variables by path, and reading the archive safely."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping

import numpy as np

from tpu_tlm.errors import TlmError
from tpu_tlm.formats.mapping import Arrays, export_arrays, import_arrays
from tpu_tlm.formats.mead.mapping import OWN, TEMPERATURE, pairs_of
from tpu_tlm.formats.pretrained import read_spec
from tpu_tlm.models.spec import ModelSpec

# Our own keys: MEAD's readers ignore what they do not know.
CONFIG_KEY = f"{OWN}config"
TOKENIZER_KEY = f"{OWN}tokenizer"
# The bias of learned-positional-w-bias as MEAD's TensorFlow side writes it, and as its PyTorch
# side does: row 0 of a token-type table.
_BIAS, _TYPES = "TLM/Embeddings/x/bias", "TLM/Embeddings/tt/weights"
# Extra: the other rows of that table. Where it is present the PyTorch form is written back.
OTHER_TYPES = "embeddings/x/other_types"
# Deflate does not compress better than this.
_BEST_RATIO = 1100
_MOST_MEMBERS = 1_000_000


def to_mead(
    values: Mapping[str, np.ndarray],
    spec: ModelSpec,
    extras: Mapping[str, np.ndarray] | None = None,
) -> Arrays:
    """Variables by path -> arrays by MEAD's keys, float32.

    `extras`: of the model; they decide between two forms of one variable. Raises KeyError when a
    variable has no place in the layout.
    """
    arrays = export_arrays(pairs_of(spec), values)
    if extras and OTHER_TYPES in extras and _BIAS in arrays:
        types = np.concatenate([arrays.pop(_BIAS)[None], extras[OTHER_TYPES]])
        arrays[_TYPES] = np.asarray(types, np.float32)
    return arrays


def mead_extras(arrays: Mapping[str, np.ndarray], spec: ModelSpec) -> Arrays:
    """The extras with which `to_mead` writes the arrays back in the form they were read in."""
    if not _is_types_form(arrays, spec) or np.ndim(arrays[_TYPES]) != 2:
        return {}
    return {OTHER_TYPES: np.asarray(arrays[_TYPES][1:], np.float32)}


def _is_types_form(arrays: Mapping[str, np.ndarray], spec: ModelSpec) -> bool:
    config = spec.config
    with_bias = "learned-with-bias" in config.position_encoding and not config.type_vocab_size
    return with_bias and _TYPES in arrays and _BIAS not in arrays


def from_mead(
    arrays: Mapping[str, np.ndarray], spec: ModelSpec, where: str, *, without: tuple[str, ...] = ()
) -> Arrays:
    """Arrays by MEAD's keys -> variables by path.

    `without`: prefixes of paths that may be absent (a head that MEAD does not store). Raises
    `TlmError` naming `where` and the key when an array is missing, or has no place in this
    configuration: a mismatch must not load silently.
    """
    if _is_types_form(arrays, spec):
        types = np.asarray(arrays[_TYPES])
        if types.ndim != 2 or not len(types):
            raise TlmError(f"{where}: {_TYPES!r} has shape {list(types.shape)}, a table is needed")
        arrays = {**{k: v for k, v in arrays.items() if k != _TYPES}, _BIAS: types[0]}
    if spec.kind == "dual" and TEMPERATURE not in arrays:
        # MEAD stores none, and its own never leaves 1.
        arrays = {**arrays, TEMPERATURE: np.float32(1.0)}
    # A generator: a configuration that claims a million layers ends at the first missing array.
    present = (
        one
        for one in pairs_of(spec)
        if not one.paths[0].startswith(without or ("\0",)) or all(k in arrays for k in one.keys)
    )
    values, used = import_arrays(present, arrays, where)
    unused = sorted(key for key in arrays if key not in used and not key.startswith(OWN))
    if unused:
        raise TlmError(
            f"{where}: array {unused[0]!r} and {len(unused) - 1} others have no place in this "
            "configuration"
        )
    return values


def _check_members(archive: zipfile.ZipFile) -> None:
    """Raise ValueError for members that claim more than the archive can hold, or hold objects."""
    members = archive.infolist()
    if len(members) > _MOST_MEMBERS:
        raise ValueError(f"it has {len(members)} members")
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise ValueError("it has two members of one name")
    for member in members:
        if member.file_size > _BEST_RATIO * member.compress_size + 1024:
            raise ValueError(f"{member.filename[:60]!r} claims {member.file_size:,} bytes")
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read is None:
                raise ValueError(f"{member.filename[:60]!r} has NPY version {version}")
            shape, _, dtype = read(stream)
            if dtype.hasobject:
                raise ValueError(f"{member.filename[:60]!r} holds Python objects")
            size = math.prod(int(n) for n in shape) * dtype.itemsize
            if size < 0 or any(n < 0 for n in shape) or size > member.file_size:
                raise ValueError(f"{member.filename[:60]!r} is cut off")


def read_npz(data: bytes, where: str) -> Arrays:
    """All arrays of an NPZ file, none of them pickled.

    Sizes are checked against the archive before anything is allocated. Raises `TlmError` naming
    `where` when it is damaged or not an NPZ file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_members(archive)
        with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
            return {key: loaded[key] for key in loaded.files}
    except Exception as error:  # zipfile, zlib, struct and numpy all raise their own on damage
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TlmError(f"{where}: is not a readable NPZ file ({reason})") from None


def text_of(arrays: Mapping[str, np.ndarray], key: str, where: str) -> str:
    """The text that an array of ours holds as UTF-8 bytes. Raises `TlmError` when it does not."""
    try:
        return np.asarray(arrays[key]).tobytes().decode()
    except UnicodeDecodeError:
        raise TlmError(f"{where}: {key!r} is not UTF-8 text") from None


def spec_of(arrays: Mapping[str, np.ndarray], where: str) -> ModelSpec | None:
    """The configuration inside an NPZ file of ours, None in one of MEAD's."""
    if CONFIG_KEY not in arrays:
        return None
    return read_spec(text_of(arrays, CONFIG_KEY, where), where)
