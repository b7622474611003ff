"""The variables of a model by path."""

from __future__ import annotations

import keras


def named_variables(layer: keras.layers.Layer, prefix: str = "") -> dict[str, keras.Variable]:
    """Variables of a layer and of those inside it, by path (`encoder/0/attn/qkv/kernel`), in order of creation."""
    found = {prefix + v.name: v for v in [*layer._trainable_variables, *layer._non_trainable_variables]}
    for inner in layer._layers:
        found.update(named_variables(inner, f"{prefix}{inner.name}/"))
    return found
