"""The variables of a model by path, all of them made when the model is."""

from __future__ import annotations

import keras


def named_variables(layer: keras.layers.Layer, prefix: str = "") -> dict[str, keras.Variable]:
    """Variables of a layer and of those inside it, by path (`encoder/0/attn/qkv/kernel`), in order of creation."""
    found = {
        prefix + v.name: v for v in [*layer._trainable_variables, *layer._non_trainable_variables]
    }
    for inner in layer._layers:
        found.update(named_variables(inner, f"{prefix}{inner.name}/"))
    return found


def mark_built(layer: keras.layers.Layer) -> None:
    """Tell Keras that a layer and those inside it have all their variables.

    Else Keras finds out by tracing every layer's `call` once in a graph of its own, at the first call: time for nothing, and wrong for
    layers that write to a cache.
    """
    layer.built = True
    for inner in layer._layers:
        mark_built(inner)
