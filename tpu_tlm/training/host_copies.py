"""Copies of tensors in the host's memory that use the same memory from save to save."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from tpu_tlm.data.processes import usable_cores

# What TensorFlow wants of memory that it takes as it is; other memory it copies.
_ALIGNMENT = 64
# Threads that copy: the first use of memory costs more than a copy, and is divided among them.
_THREADS = 4


class HostCopies:
    """Makes copies of tensors which are in the host's memory, in one block of memory.

    The block is used again once none of the last copies is referred to, and replaced otherwise.
    TensorFlow's own memory would be kept as well, but in pieces into which the next copies do not
    fit, so that it grows.
    """

    def __init__(self) -> None:
        self._block = np.empty(0, np.uint8)

    def make(self, tensors: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Tensors with the values of those given, by the same names."""
        # A number is not always made an array without `numpy`.
        sources = {n: np.asarray(t if t.shape.rank else t.numpy()) for n, t in tensors.items()}
        targets = self._targets(sources)
        with ThreadPoolExecutor(min(_THREADS, usable_cores())) as pool:
            # Listed, so that what a thread raises is raised.
            list(pool.map(np.copyto, targets.values(), sources.values()))
        return {name: _tensor(target, tensors[name].dtype) for name, target in targets.items()}

    def _targets(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays of these shapes and types in the block."""
        size = _ALIGNMENT + sum(_rounded(array.nbytes) for array in arrays.values())
        # Two references are this object's and that of the call; every other is a copy's.
        if self._block.nbytes != size or sys.getrefcount(self._block) > 2:
            # Given back first, so that there are not two of them.
            self._block = np.empty(0, np.uint8)
            self._block = np.empty(size, np.uint8)
        start = -self._block.ctypes.data % _ALIGNMENT
        targets = {}
        for name, array in arrays.items():
            flat = self._block[start : start + array.nbytes].view(array.dtype)
            targets[name] = flat.reshape(array.shape)
            start += _rounded(array.nbytes)
        return targets


def _rounded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _tensor(array: np.ndarray, dtype: tf.DType) -> tf.Tensor:
    """A tensor in the memory of the array, which lasts as long as the tensor."""
    if dtype != tf.bfloat16:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    # NumPy does not pass on what is not a type of its own.
    bits = tf.experimental.dlpack.from_dlpack(array.view(np.uint16).__dlpack__())
    return tf.bitcast(bits, dtype)
