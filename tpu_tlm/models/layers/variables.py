"""The variables of a model by path; all of them exist when the model is constructed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras


def named_variables(layer: keras.layers.Layer, prefix: str = "") -> dict[str, keras.Variable]:
    """Variables of a layer and its inner layers by path, in order of creation.

    Paths (`encoder/0/attn/qkv/kernel`) name the arrays of checkpoints: they must not change.
    """
    found = {
        prefix + v.name: v for v in [*layer._trainable_variables, *layer._non_trainable_variables]
    }
    for inner in layer._layers:
        found.update(named_variables(inner, f"{prefix}{inner.name}/"))
    return found


def unallocated() -> keras.StatelessScope:
    """A context in which models are built whose variables have no memory: for `substituted`."""
    return keras.StatelessScope(initialize_variables=False)


def substituted(layer: keras.layers.Layer, values: Mapping[str, Any]) -> keras.StatelessScope:
    """A context in which a layer computes with these tensors, by path, in place of its variables.

    Raises `KeyError` when a variable has no value there.
    """
    mapping = [(v, values[path]) for path, v in named_variables(layer).items()]
    return keras.StatelessScope(state_mapping=mapping, initialize_variables=False)


def mark_built(layer: keras.layers.Layer) -> None:
    """Tell Keras that a layer and its inner layers have all their variables.

    Otherwise Keras traces every layer's `call` in a graph of its own at the first call to find
    out: wasted time, and wrong for layers that write to a cache.
    """
    layer.built = True
    for inner in layer._layers:
        mark_built(inner)


def lend(variable: keras.Variable, layer: keras.layers.Layer) -> None:
    """Let a layer compute with a variable that belongs to another one.

    Past `__setattr__`, which would make it a variable of this layer too.
    """
    vars(layer)["borrowed"] = [variable]


def borrowed_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """What was lent to a layer and its inner layers."""
    found: list[keras.Variable] = list(vars(layer).get("borrowed", []))
    for inner in layer._layers:
        found += borrowed_variables(inner)
    return found
