"""Keeping the logs of TensorFlow and XLA out of a user's way."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os

# absl::SetMinLogLevel in the library of TensorFlow 2.20; severities: 0 info, 1 warning, 2 error.
_SET_LEVEL = "_ZN4absl12lts_2025012714SetMinLogLevelENS0_18LogSeverityAtLeastE"
_ERROR = 2


def quiet_logs() -> None:
    """Show errors only, unless TF_CPP_MIN_LOG_LEVEL asks for more; after TensorFlow's import.

    XLA logs through absl, which this environment variable does not reach. Another version of
    TensorFlow, without that function, logs as it does.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2") < "2":
        return
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    import tensorflow as tf

    library = os.path.join(os.path.dirname(tf.__file__), "libtensorflow_framework.so.2")
    with contextlib.suppress(OSError, AttributeError):
        getattr(ctypes.CDLL(library), _SET_LEVEL)(_ERROR)
