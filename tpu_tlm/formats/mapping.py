"""The mapping between a model's variables and the arrays of another program's file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tpu_tlm.errors import TlmError

Arrays = dict[str, np.ndarray]
_Many = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]


class Pair(NamedTuple):
    """Variables by path, the file's arrays by key, and the conversion in both directions.

    `to_file`: values in the order of `paths` -> arrays in the order of `keys`; `to_model`: back.
    """

    paths: tuple[str, ...]
    keys: tuple[str, ...]
    to_file: _Many
    to_model: _Many


def pair(
    path: str,
    keys: tuple[str, ...],
    to_file: Callable[[np.ndarray], Sequence[np.ndarray]],
    to_model: Callable[[Sequence[np.ndarray]], np.ndarray],
) -> Pair:
    """One variable that is one or more arrays in the file."""
    return Pair((path,), keys, lambda v: to_file(v[0]), lambda a: [to_model(a)])


def same(path: str, key: str) -> Pair:
    """An array that is equal on both sides."""
    return pair(path, (key,), lambda a: [a], lambda parts: parts[0])


def transposed(path: str, key: str) -> Pair:
    """A matrix that the file stores as `[out, in]`."""
    return pair(path, (key,), lambda a: [a.T], lambda parts: parts[0].T)


def linear(path: str, key: str, *, bias: bool = True) -> Iterator[Pair]:
    """A dense layer as PyTorch stores it: `KEY.weight` `[out, in]`, `KEY.bias`."""
    yield transposed(f"{path}/kernel", f"{key}.weight")
    if bias:
        yield same(f"{path}/bias", f"{key}.bias")


def norm(path: str, key: str, *, bias: bool = True) -> Iterator[Pair]:
    """A layer norm as PyTorch stores it: `KEY.weight`, `KEY.bias`."""
    yield same(f"{path}/gamma", f"{key}.weight")
    if bias:
        yield same(f"{path}/beta", f"{key}.bias")


def rows(path: str, key: str, vocab_size: int, *, transpose: bool = False) -> Pair:
    """A table `[vocabulary, ...]` without the rows that pad ours to a multiple of 128.

    `transpose`: our variable has the vocabulary as its last axis.
    """

    def to_file(array: np.ndarray) -> list[np.ndarray]:
        return [(array.T if transpose else array)[:vocab_size]]

    def to_model(parts: Sequence[np.ndarray]) -> np.ndarray:
        from tpu_tlm.models.layers.embeddings_stack import padded_vocab_size

        if parts[0].ndim == 0 or len(parts[0]) != vocab_size:
            found = len(parts[0]) if parts[0].ndim else "no"
            raise TlmError(
                f"{key}: has {found} rows, the configuration says {vocab_size} vocabulary entries"
            )
        missing = (padded_vocab_size(vocab_size) - vocab_size, *parts[0].shape[1:])
        filled = np.concatenate([parts[0], np.zeros(missing, parts[0].dtype)])
        return filled.T if transpose else filled

    return pair(path, (key,), to_file, to_model)


def heads(
    path: str, keys: tuple[str, str, str], num_heads: int, *, bias: bool = True
) -> Iterator[Pair]:
    """The fused query, key and value projection `[d, 3, h, k]` from three PyTorch dense layers."""
    yield pair(
        f"{path}/kernel",
        tuple(f"{key}.weight" for key in keys),
        lambda a: [a[:, i].reshape(a.shape[0], -1).T for i in range(3)],
        lambda parts: np.stack([p.T.reshape(p.shape[1], num_heads, -1) for p in parts], axis=1),
    )
    if bias:
        yield pair(
            f"{path}/bias",
            tuple(f"{key}.bias" for key in keys),
            lambda a: [a[i].reshape(-1) for i in range(3)],
            lambda parts: np.stack([p.reshape(num_heads, -1) for p in parts]),
        )


def joined_heads(path: str, key: str, num_heads: int, *, bias: bool = True) -> Iterator[Pair]:
    """The attention output projection `[h, k, d]` from a PyTorch dense layer."""
    yield pair(
        f"{path}/kernel",
        (f"{key}.weight",),
        lambda a: [a.reshape(-1, a.shape[-1]).T],
        lambda parts: parts[0].T.reshape(num_heads, -1, parts[0].shape[0]),
    )
    if bias:
        yield same(f"{path}/bias", f"{key}.bias")


def export_arrays(pairs: Iterable[Pair], values: Mapping[str, np.ndarray]) -> Arrays:
    """Variables by path -> float32 arrays by the file's keys.

    Raises KeyError when a variable has no place in the file, or is missing.
    """
    arrays: Arrays = {}
    left = set(values)
    for one in pairs:
        left.difference_update(one.paths)
        parts = one.to_file([values[path] for path in one.paths])
        for key, array in zip(one.keys, parts, strict=True):
            arrays[key] = np.asarray(array, np.float32, order="C")
    if left:
        raise KeyError(f"no place in the file for {sorted(left)}")
    return arrays


def as_weights(array: np.ndarray, key: str) -> np.ndarray:
    """An array of a file as float32; `TlmError` for whole numbers (quantized, or mislabelled)."""
    if array.dtype.kind in "biu":
        raise TlmError(
            f"{key!r} holds whole numbers ({array.dtype}), no weights: "
            "save the model as float32, float16 or bfloat16 (a quantized one is not read)"
        )
    return np.asarray(array, np.float32)


def import_arrays(
    pairs: Iterable[Pair], arrays: Mapping[str, np.ndarray], where: str
) -> tuple[Arrays, set[str]]:
    """Arrays by the file's keys -> float32 variables by path, and the keys that were used.

    Raises `TlmError` naming `where` and the key when an array is missing, or does not have the
    rank or the size that the conversion needs.
    """
    values: Arrays = {}
    used: set[str] = set()
    for one in pairs:
        for key in one.keys:
            if key not in arrays:
                raise TlmError(f"{where}: has no array {key!r}, which its configuration needs")
        used.update(one.keys)
        try:
            parts = one.to_model([as_weights(arrays[key], key) for key in one.keys])
        except (ValueError, IndexError, TypeError) as error:
            raise TlmError(
                f"{where}: {one.keys[0]!r} does not fit the configuration ({error})"
            ) from None
        except TlmError as error:
            raise TlmError(f"{where}: {error}") from None
        values.update(zip(one.paths, parts, strict=True))
    return values, used
