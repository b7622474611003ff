"""MEAD's NPZ layout: its keys and orientation <-> the model's variables by path, plus one key with our configuration."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from tpu_tlm.errors import TlmError
from tpu_tlm.formats.mapping import Arrays, read, written
from tpu_tlm.formats.mead.mapping import OWN, TEMPERATURE, pairs_of
from tpu_tlm.models.spec import ModelSpec

# Our own keys: MEAD's readers pass over what they do not know.
CONFIG_KEY = f"{OWN}config"
TOKENIZER_KEY = f"{OWN}tokenizer"
# As MEAD's TensorFlow program writes the bias of learned-positional-w-bias, in a form that no reader of it accepts.
_BIAS, _TYPES = "TLM/Embeddings/x/bias", "TLM/Embeddings/tt/weights"


def to_mead(values: Mapping[str, np.ndarray], spec: ModelSpec) -> Arrays:
    """Variables by path -> arrays by MEAD's keys, float32. Raises KeyError when a variable has no place in the layout."""
    return written(pairs_of(spec), values)


def from_mead(
    arrays: Mapping[str, np.ndarray], spec: ModelSpec, where: str, *, without: tuple[str, ...] = ()
) -> Arrays:
    """Arrays by MEAD's keys -> variables by path.

    `without`: prefixes of paths that may be absent from the file (a head that MEAD does not store). Raises `TlmError` naming `where`
    and the key when an array is missing, or is not used by this configuration: a mismatch must not load silently.
    """
    if (
        "learned-with-bias" in spec.config.position_encoding
        and _BIAS in arrays
        and not spec.config.type_vocab_size
    ):
        bias = np.asarray(arrays[_BIAS])
        arrays = {
            **{k: v for k, v in arrays.items() if k != _BIAS},
            _TYPES: np.stack([bias, np.zeros_like(bias)]),
        }
    if spec.kind == "dual" and TEMPERATURE not in arrays:
        # MEAD stores none, and its own never leaves 1.
        arrays = {**arrays, TEMPERATURE: np.float32(1.0)}
    present = [
        p
        for p in pairs_of(spec)
        if not p.path.startswith(without or ("\0",)) or all(key in arrays for key in p.keys)
    ]
    values, used = read(present, arrays, where)
    unused = sorted(key for key in arrays if key not in used and not key.startswith(OWN))
    if unused:
        raise TlmError(
            f"{where}: array {unused[0]!r} and {len(unused) - 1} others have no place in this configuration"
        )
    return values


def read_npz(data: bytes, where: str) -> Arrays:
    """All arrays of an NPZ file, none of them pickled. Raises `TlmError` naming `where` when it is damaged or not an NPZ file."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except Exception as error:  # zipfile, zlib, struct and numpy all raise their own on damage
        raise TlmError(f"{where}: is not a readable NPZ file ({error})") from None


def spec_of(arrays: Mapping[str, np.ndarray], where: str) -> ModelSpec | None:
    """The configuration inside an NPZ file of ours, None in one of MEAD's."""
    return (
        ModelSpec.from_json(arrays[CONFIG_KEY].tobytes().decode(), where)
        if CONFIG_KEY in arrays
        else None
    )
