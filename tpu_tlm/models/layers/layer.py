"""The base of all layers and models: saving by Keras, and dropout outside our own loop."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.config import ModelConfig, cli
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.variables import mark_built
from tpu_tlm.models.spec import ModelSpec


class _SeedHolder:
    """A place for a `SeedGenerator` that Keras does not track.

    Tracked, each layer would gain a variable that our own loop, which passes keys, never uses.
    """

    generator: keras.random.SeedGenerator | None = None


def _encode(value: Any) -> Any:
    if isinstance(value, ModelConfig):
        return {"tpu_tlm": "ModelConfig", "value": cli.as_values(value)}
    if isinstance(value, ModelSpec):
        return {"tpu_tlm": "ModelSpec", "value": value.to_json()}
    return value


def _decode(value: Any) -> Any:
    if not isinstance(value, Mapping) or "tpu_tlm" not in value:
        return value
    if value["tpu_tlm"] == "ModelSpec":
        return ModelSpec.from_json(value["value"], "a saved Keras model")
    return cli.build([ModelConfig], dict(value["value"]), "a saved Keras model")[0]


class KerasObject:
    """A mixin for Keras layers and models that are built from sizes, a `ModelConfig` or a spec.

    Subclasses are registered as `tpu_tlm>NAME`, and the arguments of their constructor are their
    configuration: `keras.saving.load_model` restores them in a process that has imported
    `tpu_tlm.models.registry`. Which inner layers are frozen (`trainable = False`) is saved too.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        keras.saving.register_keras_serializable(package="tpu_tlm")(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        instance = super().__new__(cls, *args, **kwargs)  # type: ignore[call-arg]
        given = inspect.signature(cls.__init__).bind(None, *args, **kwargs).arguments
        given.pop("self", None)
        given.update(given.pop("kwargs", {}))
        for name in ("name", "dtype", "trainable"):  # Keras' own
            given.pop(name, None)
        # Past `__setattr__`, which would track what is in it.
        vars(instance)["_arguments"] = given
        vars(instance)["_seed_holder"] = _SeedHolder()
        return instance

    def build(self, input_shape: Any = None) -> None:
        """Nothing to build: variables exist from construction, also those of inner layers.

        Without this method Keras traces `call` to find out, with float inputs where ids are meant.
        """
        mark_built(self)  # type: ignore[arg-type]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON values, and the paths of frozen inner layers."""
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]
        config |= {name: _encode(value) for name, value in vars(self)["_arguments"].items()}
        frozen = [path for path, layer in _inner_layers(self) if not layer.trainable]
        return config | ({"frozen": frozen} if frozen else {})

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> Any:
        """The layer or model of a configuration; its variables have no values yet."""
        values = dict(config)
        frozen = set(values.pop("frozen", ()))
        made = cls(**{name: _decode(value) for name, value in values.items()})
        for path, layer in _inner_layers(made):
            if path in frozen:
                layer.trainable = False
        return made

    def dropout_key(self, inputs: Any, key: Key | None, training: bool | None) -> Key | None:
        """The key that this call draws dropout from: `key`, or in training a new one per row.

        Our loop passes keys, which depend on the position of the example in the run. Without one
        (`fit`, `layer(x, training=True)`) the outermost layer draws from a Keras `SeedGenerator`,
        so that `keras.utils.set_random_seed` makes it repeatable. None: no dropout.
        """
        if key is not None or not training:
            return key
        holder: _SeedHolder = vars(self)["_seed_holder"]
        if holder.generator is None:
            with tf.init_scope():  # a variable that outlives the function being traced
                holder.generator = keras.random.SeedGenerator()
        first = inputs["x"] if isinstance(inputs, Mapping) else inputs
        context = tf.distribute.get_replica_context()
        replica = 0 if context is None else context.replica_id_in_sync_group
        return Key.from_seed(holder.generator.next(), tf.shape(first)[0]).fold(replica)


def _inner_layers(layer: Any, prefix: str = "") -> list[tuple[str, keras.layers.Layer]]:
    found = []
    for inner in layer._layers:
        path = f"{prefix}{inner.name}"
        found += [(path, inner), *_inner_layers(inner, f"{path}/")]
    return found


class Layer(KerasObject, keras.layers.Layer):
    """A Keras layer of ours: it can be saved, and drops out in training with or without a key."""


def check_static_length(x: tf.Tensor) -> None:
    """Raise ValueError where axis 1 of `x` (the positions) has no fixed size."""
    if x.shape[1] is None:
        raise ValueError(
            "the number of positions must be fixed: give it to keras.Input, for example"
            " keras.Input((128,), dtype='int32'), and pad texts to it"
        )
