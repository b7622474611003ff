"""Tensors that a program needs in many places and that are made once for it.

TensorFlow makes an operation for every number in an expression, and a step of a Transformer names
the same few numbers thousands of times: a third of its operations were such constants. XLA merges
them, so the compiled program is the same with or without; tracing and preparing it takes less time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar

import tensorflow as tf

_MADE: ContextVar[dict[Hashable, tf.Tensor] | None] = ContextVar("made", default=None)


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """A block that traces a program of one device, in which `shared` makes each tensor once.

    Not for several replicas in one graph: a constant belongs to the device that it was made on.
    """
    token = _MADE.set({})
    try:
        yield
    finally:
        _MADE.reset(token)


def shared(key: Hashable, make: Callable[[], tf.Tensor]) -> tf.Tensor:
    """The tensor `make()`, within `sharing` once for each graph and key, else a new one.

    key: says all that the tensor depends on.
    """
    made = _MADE.get()
    if made is None or tf.executing_eagerly():
        return make()
    # An inner graph (a loop's body) has its own: as its argument the value would be unknown there.
    found = (tf.compat.v1.get_default_graph(), key)
    if found not in made:
        made[found] = make()
    return made[found]


def constant(value: float | tuple[int, ...], dtype: tf.DType) -> tf.Tensor:
    """A number, or integers, as a tensor of this dtype; see `shared`."""
    return shared(("constant", value, dtype), lambda: tf.constant(value, dtype))
