"""Keras models and their layers; `registry.build_model` makes a model from its spec."""
