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
    return _target() == "CPU"


def for_tpu() -> bool:
    """Whether what is traced now runs on a TPU: it was named, or there is one."""
    return _target() == "TPU"


def _target() -> str:
    named = _named.get()
    if named is not None:
        return named
    return next((kind for kind in ("TPU", "GPU") if tf.config.list_logical_devices(kind)), "CPU")
