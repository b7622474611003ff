"""How variables stand in another program's file: pairs of a path of ours and the file's keys, with the way there and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from tpu_tlm.errors import TlmError

Arrays = dict[str, np.ndarray]


class Pair(NamedTuple):
    """One variable and the arrays it is in the file: how to write them (`split`) and how to read them (`join`)."""

    path: str
    keys: tuple[str, ...]
    split: Callable[[np.ndarray], list[np.ndarray]]
    join: Callable[[list[np.ndarray]], np.ndarray]


def same(path: str, key: str) -> Pair:
    """The array as it is."""
    return Pair(path, (key,), lambda a: [a], lambda parts: parts[0])


def transposed(path: str, key: str) -> Pair:
    """A matrix that the file holds as `[out, in]`."""
    return Pair(path, (key,), lambda a: [a.T], lambda parts: parts[0].T)


def linear(path: str, key: str) -> Iterator[Pair]:
    """A dense layer in PyTorch's form: `KEY.weight` `[out, in]`, `KEY.bias`."""
    yield transposed(f"{path}/kernel", f"{key}.weight")
    yield same(f"{path}/bias", f"{key}.bias")


def norm(path: str, key: str) -> Iterator[Pair]:
    """A layer norm in PyTorch's form: `KEY.weight`, `KEY.bias`."""
    yield same(f"{path}/gamma", f"{key}.weight")
    yield same(f"{path}/beta", f"{key}.bias")


def rows(path: str, key: str, vocab_size: int, *, transpose: bool = False) -> Pair:
    """A table `[vocabulary, ...]` whose filling rows (ours are multiples of 128) stay out of the file; `transpose`: ours has them last."""

    def split(array: np.ndarray) -> list[np.ndarray]:
        return [(array.T if transpose else array)[:vocab_size]]

    def join(parts: list[np.ndarray]) -> np.ndarray:
        from tpu_tlm.models.layers.embeddings_stack import padded_vocab_size

        if len(parts[0]) != vocab_size:
            raise TlmError(
                f"{key}: has {len(parts[0])} rows, the configuration says {vocab_size} vocabulary entries"
            )
        filled = np.concatenate(
            [
                parts[0],
                np.zeros(
                    (padded_vocab_size(vocab_size) - vocab_size, *parts[0].shape[1:]),
                    parts[0].dtype,
                ),
            ]
        )
        return filled.T if transpose else filled

    return Pair(path, (key,), split, join)


def heads(path: str, keys: tuple[str, str, str], num_heads: int) -> Iterator[Pair]:
    """The fused projection `[d, 3, h, k]` out of three dense layers in PyTorch's form."""
    yield Pair(
        f"{path}/kernel",
        tuple(f"{key}.weight" for key in keys),
        lambda a: [a[:, i].reshape(a.shape[0], -1).T for i in range(3)],
        lambda parts: np.stack([p.T.reshape(p.shape[1], num_heads, -1) for p in parts], axis=1),
    )
    yield Pair(
        f"{path}/bias",
        tuple(f"{key}.bias" for key in keys),
        lambda a: [a[i].reshape(-1) for i in range(3)],
        lambda parts: np.stack([p.reshape(num_heads, -1) for p in parts]),
    )


def joined_heads(path: str, key: str, num_heads: int) -> Iterator[Pair]:
    """The projection `[h, k, d]` of the joined heads out of a dense layer in PyTorch's form."""
    yield Pair(
        f"{path}/kernel",
        (f"{key}.weight",),
        lambda a: [a.reshape(-1, a.shape[-1]).T],
        lambda parts: parts[0].T.reshape(num_heads, -1, parts[0].shape[0]),
    )
    yield same(f"{path}/bias", f"{key}.bias")


def written(pairs: Iterable[Pair], values: Mapping[str, np.ndarray]) -> Arrays:
    """Variables by path -> float32 arrays by the file's keys. Raises KeyError when a variable has no place there, or is missing."""
    arrays: Arrays = {}
    left = set(values)
    for pair in pairs:
        left.remove(pair.path)
        for key, array in zip(pair.keys, pair.split(values[pair.path]), strict=True):
            arrays[key] = np.asarray(array, np.float32, order="C")
    if left:
        raise KeyError(f"no place in the file for {sorted(left)}")
    return arrays


def read(
    pairs: Iterable[Pair], arrays: Mapping[str, np.ndarray], where: str
) -> tuple[Arrays, set[str]]:
    """Arrays by the file's keys -> float32 variables by path, and the keys that were used.

    Raises `TlmError` naming `where` and the key when an array is missing or cannot be brought into the variable's form.
    """
    values: Arrays = {}
    used: set[str] = set()
    for pair in pairs:
        for key in pair.keys:
            if key not in arrays:
                raise TlmError(f"{where}: has no array {key!r}, which its configuration needs")
        used.update(pair.keys)
        try:
            values[pair.path] = pair.join(
                [np.asarray(arrays[key], np.float32) for key in pair.keys]
            )
        except ValueError as error:
            raise TlmError(
                f"{where}: {pair.keys[0]!r} does not fit the configuration ({error})"
            ) from None
        except TlmError as error:
            raise TlmError(f"{where}: {error}") from None
    return values, used
