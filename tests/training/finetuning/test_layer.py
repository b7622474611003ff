"""A pre-trained encoder in somebody's Keras model: trained, saved, loaded, frozen."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tasks.toy_tasks import toy_model
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.load import load
from tpu_tlm.training.finetuning.layer import PretrainedEncoder, load_encoder

TEXTS = np.array(["a good day", "the film is very bad", "it was", "happy happy tree"] * 4)
LABELS = np.array([1, 0, 0, 1] * 4)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("layer")
    toy_model(directory)
    return directory


def encoder(place: Path, **more: object) -> PretrainedEncoder:
    return load_encoder(
        str(place / "model.npz"), tokenizer=str(place / "tokenizer"), max_length=12, **more
    )


def test_strings_and_ids_give_the_model_s_vectors(place: Path) -> None:
    layer = encoder(place, pooling="none")
    ids = layer.ids(TEXTS[:3])
    vectors = layer(tf.constant(TEXTS[:3]))
    np.testing.assert_allclose(vectors, layer(tf.constant(ids)), atol=1e-6)
    model = load(str(place / "model.npz")).model()
    np.testing.assert_allclose(vectors, model.encode(tf.constant(ids)), atol=1e-5)
    mean = encoder(place, pooling="mean")(tf.constant(TEXTS[:3]))
    real = (ids != 0).astype(np.float32)
    expected = (vectors.numpy() * real[..., None]).sum(1) / real.sum(1, keepdims=True)
    np.testing.assert_allclose(mean, expected, atol=1e-5)


def test_it_trains_saves_and_loads_in_a_functional_model(place: Path, tmp_path: Path) -> None:
    texts = keras.Input((), dtype="string")
    layer = encoder(place, pooling="max", dropout=0.1)
    outputs = keras.layers.Dense(2)(layer(texts))
    model = keras.Model(texts, outputs)
    model.compile(
        keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    data = tf.data.Dataset.from_tensor_slices((TEXTS, LABELS)).batch(8)
    history = model.fit(data, epochs=6, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]
    before = model.predict(data, verbose=0)
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.models.load_model(path)
    np.testing.assert_allclose(again.predict(data, verbose=0), before, atol=1e-5)
    again.fit(data, epochs=1, verbose=0)


def test_dropout_acts_in_training_only_and_differs_by_call(place: Path) -> None:
    layer = encoder(place, dropout=0.3)
    x = tf.constant(layer.ids(TEXTS[:2]))
    calm, wild, other = layer(x), layer(x, training=True), layer(x, training=True)
    np.testing.assert_array_equal(calm, layer(x, training=False))
    assert np.abs(calm - wild).max() > 1e-3 and np.abs(other - wild).max() > 1e-3


def test_a_frozen_layer_keeps_its_values(place: Path) -> None:
    ids = keras.Input((12,), dtype="int32")
    layer = encoder(place, trainable=False)
    assert not layer.trainable_variables
    model = keras.Model(ids, keras.layers.Dense(2)(layer(ids)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [v.numpy() for v in layer.weights]
    model.fit(layer.ids(TEXTS), LABELS, verbose=0)
    for value, variable in zip(before, layer.weights, strict=True):
        if "seed" not in variable.path:
            np.testing.assert_array_equal(value, variable.numpy(), err_msg=variable.path)


def test_refusals(place: Path) -> None:
    with pytest.raises(UsageError, match="pooling 'sum'"):
        encoder(place, pooling="sum")
    with pytest.raises(UsageError, match="max_length 99"):
        load_encoder(str(place / "model.npz"), tokenizer=str(place / "tokenizer"), max_length=99)
    bare = PretrainedEncoder(load(str(place / "model.npz")).spec.to_json())
    with pytest.raises(UsageError, match="no tokenizer"):
        bare.ids(["a"])
