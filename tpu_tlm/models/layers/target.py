"""The kind of device that a program is traced for, where layers compute a result differently."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar

import tensorflow as tf

# Device type, and name of the device where it is known, as TPU_ACCELERATOR_TYPE has it.
_named: ContextVar[tuple[str, str] | None] = ContextVar("traced_for", default=None)

# Chips whose matrix units outrun the rest of the core by so much that the products of a BERT wait
# for what is computed within them.
_V6E = re.compile(r"v6e\b", re.IGNORECASE)
_own_name = ""


@contextlib.contextmanager
def traced_for(device_type: str, name: str = "") -> Iterator[None]:
    """Trace what is called inside for "CPU", "GPU" or "TPU", whatever this machine has.

    `name`: of the TPU, such as "v6e-8"; "" for one that is not known.
    """
    token = _named.set((device_type, name))
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


def for_v6e() -> bool:
    """Whether what is traced now runs on a TPU that is known to be a v6e.

    Its products have four times the speed of a v5e's, all else has little more.
    """
    if not for_tpu():
        return False
    named = _named.get()
    own = os.environ.get("TPU_ACCELERATOR_TYPE") or _own_name
    return _V6E.match(own if named is None else named[1]) is not None


def runs_on(name: str) -> None:
    """Name this process's TPU, which TensorFlow does not tell: "v6e-8" or "v6e"."""
    global _own_name
    _own_name = name


def _target() -> str:
    named = _named.get()
    if named is not None:
        return named[0]
    return next((kind for kind in ("TPU", "GPU") if tf.config.list_logical_devices(kind)), "CPU")
