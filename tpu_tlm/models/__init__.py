"""Keras models and their layers; `registry.build_model` makes a model from its spec.

They need Keras' TensorFlow backend. Any other is refused here in one line, before Keras or
TensorFlow fails further inside.
"""

import os

from tpu_tlm.config.keras_backend import FIX, unusable_backend
from tpu_tlm.errors import UsageError

if problem := unusable_backend(os.environ):
    raise UsageError(f"{problem}: the models of tpu_tlm need Keras' TensorFlow backend; {FIX}")
