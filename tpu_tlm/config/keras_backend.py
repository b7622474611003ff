"""Keras with TensorFlow's backend, or what to do where it has another one."""

from __future__ import annotations

import sys
from collections.abc import Mapping

VARIABLE = "KERAS_BACKEND"
FIX = f"unset {VARIABLE}, or set it to tensorflow, before Python starts"


def unusable_backend(environ: Mapping[str, str]) -> str | None:
    """What is wrong with the backend that Keras has, or will have once imported; None: nothing.

    Does not import Keras, so that a backend named only in keras.json is not seen before that.
    """
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "config"):
        backend = keras.config.backend()
        return f"Keras was imported with the {backend} backend" if backend != "tensorflow" else None
    wanted = environ.get(VARIABLE) or "tensorflow"
    return f"{VARIABLE}={wanted}" if wanted != "tensorflow" else None
