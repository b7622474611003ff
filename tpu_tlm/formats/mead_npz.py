"""MEAD's NPZ layout: its keys and orientation <-> the model's variables by path, plus one key with our configuration."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from tpu_tlm.errors import TlmError
from tpu_tlm.models.spec import ModelSpec

Arrays = dict[str, np.ndarray]

# Our own keys: MEAD's readers pass over what they do not know.
CONFIG_KEY = "tpu_tlm/config"
TOKENIZER_KEY = "tpu_tlm/tokenizer"
_HEAD = "tpu_tlm/head"
_STACK = "TLM/TransformerEncoderStack"
_EMBEDDINGS = "TLM/Embeddings"


class Pairing(NamedTuple):
    """One variable and the arrays it is in the file: how to write them (`split`) and how to read them (`join`)."""

    path: str
    keys: tuple[str, ...]
    split: Callable[[np.ndarray], list[np.ndarray]]
    join: Callable[[list[np.ndarray]], np.ndarray]


def _same(path: str, key: str) -> Pairing:
    return Pairing(path, (key,), lambda a: [a], lambda parts: parts[0])


def _dense(path: str, key: str) -> Iterator[Pairing]:
    yield Pairing(f"{path}/kernel", (f"{key}/weights",), lambda a: [a.T], lambda parts: parts[0].T)
    yield _same(f"{path}/bias", f"{key}/bias")


def _norm(path: str, key: str) -> Iterator[Pairing]:
    yield _same(f"{path}/gamma", f"{key}/weights")
    yield _same(f"{path}/beta", f"{key}/bias")


def _rows(path: str, key: str, spec: ModelSpec, *, transpose: bool = False) -> Pairing:
    """A table or head over the vocabulary: the rows that only fill it up to 128 stay out of the file."""

    def split(array: np.ndarray) -> list[np.ndarray]:
        return [(array.T if transpose else array)[: spec.vocab_size]]

    def join(parts: list[np.ndarray]) -> np.ndarray:
        from tpu_tlm.models.lm import padded

        missing = padded(spec.vocab_size) - spec.vocab_size
        if len(parts[0]) != spec.vocab_size:
            raise TlmError(f"{key}: has {len(parts[0])} rows, the vocabulary {spec.vocab_size} entries")
        filled = np.concatenate([parts[0], np.zeros((missing, *parts[0].shape[1:]), parts[0].dtype)])
        return filled.T if transpose else filled

    return Pairing(path, (key,), split, join)


def _attention(path: str, key: str, spec: ModelSpec) -> Iterator[Pairing]:
    config = spec.config
    heads = config.num_heads
    width = config.d_k or config.d_model // heads
    names = ("w_Q", "w_K", "w_V")
    yield Pairing(
        f"{path}/qkv/kernel",
        tuple(f"{key}/{n}/weights" for n in names),
        lambda a: [a[:, i].reshape(a.shape[0], -1).T for i in range(3)],
        lambda parts: np.stack([p.T.reshape(-1, heads, width) for p in parts], axis=1),
    )
    yield Pairing(
        f"{path}/qkv/bias",
        tuple(f"{key}/{n}/bias" for n in names),
        lambda a: [a[i].reshape(-1) for i in range(3)],
        lambda parts: np.stack([p.reshape(heads, width) for p in parts]),
    )
    yield Pairing(
        f"{path}/w_O/kernel",
        (f"{key}/w_O/weights",),
        lambda a: [a.reshape(-1, a.shape[-1]).T],
        lambda parts: parts[0].T.reshape(heads, width, -1),
    )
    yield _same(f"{path}/w_O/bias", f"{key}/w_O/bias")


def pairings(spec: ModelSpec) -> Iterator[Pairing]:
    """How every variable of a model stands in the file."""
    config = spec.config
    for layer in range(config.num_layers):
        path, key = f"encoder/{layer}", f"{_STACK}/{layer}"
        yield from _norm(f"{path}/ln1", f"{key}/ln1")
        yield from _norm(f"{path}/ln2", f"{key}/ln2")
        yield from _attention(f"{path}/attn", f"{key}/attn", spec)
        if config.rpr_k_of(layer):
            yield _same(f"{path}/attn/rpr_key", f"{key}/attn/rpr_key")
            if config.rpr_value_on:
                yield _same(f"{path}/attn/rpr_value", f"{key}/attn/rpr_value")
        yield from _dense(f"{path}/ffn/expansion", f"{key}/ffn/expansion")
        yield from _dense(f"{path}/ffn/squeeze", f"{key}/ffn/squeeze")
    if config.transformer_type != "post-layer-norm":
        yield from _norm("encoder/ln", f"{_STACK}/ln")
    yield _rows("embeddings/x/table", f"{_EMBEDDINGS}/x/weights", spec)
    if config.embed_type == "learned-positional":
        yield _same("embeddings/x/positions", f"{_EMBEDDINGS}/x/pos_weights")
    if config.token_type_vsz:
        yield _same("embeddings/tt/table", f"{_EMBEDDINGS}/tt/weights")
    if config.embeddings_reduction == "sum-layer-norm":
        yield from _norm("embeddings/reduction", f"{_EMBEDDINGS}/reduction/ln")
    if config.mlm_head == "bert":
        yield from _dense("head/dense", f"{_HEAD}/dense")
        yield from _norm("head/ln", f"{_HEAD}/ln")
    if not config.tie_weights:
        yield _rows("head/kernel", f"{_HEAD}/weights", spec, transpose=True)
    if config.output_bias:
        yield _rows("head/bias", f"{_HEAD}/bias", spec)


def to_mead(values: Mapping[str, np.ndarray], spec: ModelSpec) -> Arrays:
    """Variables by path -> arrays by MEAD's keys, float32. Raises KeyError when a variable has no place in the layout."""
    arrays: Arrays = {}
    left = set(values)
    for pairing in pairings(spec):
        left.discard(pairing.path)
        for key, array in zip(pairing.keys, pairing.split(values[pairing.path]), strict=True):
            arrays[key] = np.ascontiguousarray(array, np.float32)
    if left:
        raise KeyError(f"no place in MEAD's layout for {sorted(left)}")
    return arrays


def from_mead(arrays: Mapping[str, np.ndarray], spec: ModelSpec, where: str, *, without: tuple[str, ...] = ()) -> Arrays:
    """Arrays by MEAD's keys -> variables by path.

    `without`: prefixes of paths that may be absent from the file (a head that MEAD does not store). Raises `TlmError` naming `where`
    and the key when an array is missing, or is not used by this configuration: a mismatch must not load silently.
    """
    values: Arrays = {}
    used: set[str] = set()
    for pairing in pairings(spec):
        missing = [key for key in pairing.keys if key not in arrays]
        if missing:
            if pairing.path.startswith(without or ("\0",)):
                continue
            raise TlmError(f"{where}: has no array {missing[0]!r}, which this configuration needs")
        used.update(pairing.keys)
        try:
            values[pairing.path] = pairing.join([np.asarray(arrays[key], np.float32) for key in pairing.keys])
        except ValueError as error:
            raise TlmError(f"{where}: {pairing.keys[0]}: does not fit the configuration ({error})") from None
    unused = sorted(key for key in arrays if key not in used and not key.startswith("tpu_tlm/"))
    if unused:
        raise TlmError(f"{where}: array {unused[0]!r} and {len(unused) - 1} others have no place in this configuration")
    return values


def encode_npz(values: Mapping[str, np.ndarray], spec: ModelSpec, fingerprint: str | None = None) -> bytes:
    """The bytes of an NPZ file: MEAD's arrays, our configuration and the fingerprint of the tokenizer."""
    arrays: Arrays = to_mead(values, spec)
    arrays[CONFIG_KEY] = np.frombuffer(spec.to_json().encode(), np.uint8)
    if fingerprint:
        arrays[TOKENIZER_KEY] = np.frombuffer(fingerprint.encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def read_npz(data: bytes, where: str) -> Arrays:
    """All arrays of an NPZ file, none of them pickled. Raises `TlmError` naming `where` when it is damaged or not an NPZ file."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except Exception as error:  # zipfile, zlib, struct and numpy all raise their own on damage
        raise TlmError(f"{where}: is not a readable NPZ file ({error})") from None


def spec_of(arrays: Mapping[str, np.ndarray], where: str) -> ModelSpec | None:
    """The configuration inside an NPZ file of ours, None in one of MEAD's."""
    return ModelSpec.from_json(arrays[CONFIG_KEY].tobytes().decode(), where) if CONFIG_KEY in arrays else None
