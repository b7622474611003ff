"""Tensors that a program needs in many places and that are made once for it.

TensorFlow makes an operation for every number in an expression, and the step of a Transformer has
the same few numbers in thousands of places. With one operation for each number, the step gives the
same results, and TensorFlow traces it and prepares it for XLA in less time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar

import tensorflow as tf

_TENSORS: ContextVar[dict[Hashable, tf.Tensor] | None] = ContextVar("tensors", default=None)


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """A block that traces a program of one device, in which `shared` makes each tensor once.

    Not for several replicas in one graph: a constant belongs to the device that it was made on.
    """
    token = _TENSORS.set({})
    try:
        yield
    finally:
        _TENSORS.reset(token)


def shared(key: Hashable, make: Callable[[], tf.Tensor]) -> tf.Tensor:
    """The tensor that `make()` returns; within `sharing`, the same one for the same key.

    key: everything that the tensor depends on. Outside `sharing`, and eagerly, each call makes a
    tensor.
    """
    tensors = _TENSORS.get()
    if tensors is None or tf.executing_eagerly():
        return make()
    # The body of a loop is a graph and makes its own tensors. Those of the graph around it would be
    # the body's arguments, whose values XLA does not know.
    graph_and_key = (tf.compat.v1.get_default_graph(), key)
    if graph_and_key not in tensors:
        tensors[graph_and_key] = make()
    return tensors[graph_and_key]


def constant(value: float | tuple[int, ...], dtype: tf.DType) -> tf.Tensor:
    """A number, or a vector of integers, as a `shared` tensor of this dtype."""
    # 0.0 and -0.0 are equal.
    return shared(("constant", repr(value), dtype), lambda: tf.constant(value, dtype))
