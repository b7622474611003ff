"""The layers that the models are made of."""

import keras

from tpu_tlm.errors import UsageError

# A backend that is named in keras.json shows only once Keras is imported.
if keras.config.backend() != "tensorflow":
    raise UsageError(
        f"Keras runs on {keras.config.backend()} (~/.keras/keras.json): the models of tpu_tlm need"
        " its TensorFlow backend; set KERAS_BACKEND=tensorflow before Python starts"
    )
