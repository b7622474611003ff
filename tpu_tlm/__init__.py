"""TPU-first pre-training of Transformer language models with TensorFlow and Keras."""

__version__ = "0.1.0"
