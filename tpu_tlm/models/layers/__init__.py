"""The layers that the models are made of.

Importing them needs Keras with its TensorFlow backend; any other backend is refused here in one
line, before Keras or TensorFlow fails further inside.
"""

from tpu_tlm.models.layers.backend import require_tensorflow_backend

require_tensorflow_backend()
