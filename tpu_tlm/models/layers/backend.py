"""The check that Keras runs on TensorFlow."""

from __future__ import annotations

import os
import sys

from tpu_tlm.errors import UsageError


def require_tensorflow_backend() -> None:
    """Raise `UsageError` where Keras runs, or would run, on a backend other than TensorFlow.

    Commands choose the backend themselves. From Python, KERAS_BACKEND (or keras.json) belongs to
    the user and other libraries: it is not changed silently.
    """
    if "keras" not in sys.modules:
        wanted = os.environ.get("KERAS_BACKEND") or "tensorflow"
        if wanted != "tensorflow":
            raise UsageError(
                f"KERAS_BACKEND={wanted}: the models of tpu_tlm need Keras' TensorFlow backend;"
                " unset KERAS_BACKEND, or set it to tensorflow, before Keras is imported"
            )
    import keras

    backend = keras.config.backend()
    if backend != "tensorflow":
        raise UsageError(
            f"Keras runs on {backend}: the models of tpu_tlm need its TensorFlow backend; set"
            " KERAS_BACKEND=tensorflow (or edit ~/.keras/keras.json) and start Python again"
        )
