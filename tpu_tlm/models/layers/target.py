"""The kind of device that a program is traced for, where layers compute a result differently."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import tensorflow as tf

_named: ContextVar[str | None] = ContextVar("traced_for", default=None)


@contextlib.contextmanager
def traced_for(device_type: str) -> Iterator[None]:
    """Trace what is called inside for "CPU", "GPU" or "TPU", whatever this machine has."""
    token = _named.set(device_type)
    try:
        yield
    finally:
        _named.reset(token)


def for_processor() -> bool:
    """Whether what is traced now runs on a CPU: it was named, or there is no accelerator."""
    named = _named.get()
    if named is not None:
        return named == "CPU"
    return not any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))
