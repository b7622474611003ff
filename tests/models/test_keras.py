"""What Keras promises of a layer, with ours: fit, dropout, save and load, freezing, policies."""

from __future__ import annotations

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import preloaded
from tests.models.contract import elmo, fill, hidden, inputs_of, small, tokens
from tests.paths import ROOT
from tpu_tlm.config.keras_backend import unusable_backend
from tpu_tlm.models.dual_encoder import StackedHead
from tpu_tlm.models.layers.attention import MultiHeadedAttention
from tpu_tlm.models.layers.core import FFN
from tpu_tlm.models.layers.encoder import TransformerEncoderStack
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import KINDS, build_model
from tpu_tlm.models.spec import ModelSpec

VOCAB, LENGTH = 20, 8


def spec_of(kind="embed", **options):
    if kind == "elmo":
        return elmo()
    generator = small(**options) if kind == "electra" else None
    return ModelSpec(small(**options), VOCAB, LENGTH, kind=kind, generator=generator)


def classifier(kind="embed", spec=None, **options):
    """A functional model: one of ours, pooled, and a dense layer with 3 classes."""
    core = KINDS[kind].model(spec or spec_of(kind, **options), name="core")
    inputs = keras.Input((LENGTH,), dtype="int32")
    vectors = keras.layers.GlobalAveragePooling1D()(core(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(vectors))
    fill(core)
    return model, core


def compiled(model, optimizer, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **options)
    return model


def snapshot(layer):
    return {path: v.numpy().copy() for path, v in named_variables(layer).items()}


def test_a_fitted_model_is_loaded_by_another_process(tmp_path):
    model, _ = classifier(rpr_k=[2], type_vocab_size=2, position_encoding=["learned", "shaw"])
    x, y = tokens().numpy(), np.array([0, 1, 2, 0])
    compiled(model, "adam").fit(x, y, epochs=2, verbose=0)
    path, outputs = tmp_path / "model.keras", tmp_path / "outputs.npz"
    model.save(path)
    np.savez(outputs, x=x, expected=model.predict(x, verbose=0))
    code = f"""
import keras, numpy as np, tpu_tlm.models.registry
model, data = keras.saving.load_model({str(path)!r}), np.load({str(outputs)!r})
np.testing.assert_allclose(model.predict(data["x"], verbose=0), data["expected"], atol=1e-6)
model.fit(data["x"], np.array([0, 1, 2, 0]), verbose=0)
print("equal")
"""
    done = run_python(code)
    assert done.stdout.strip().endswith("equal"), done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_saved_by_keras(kind, tmp_path):
    model = fill(build_model(spec_of(kind), seed=0))
    given = inputs_of(kind)
    expected = model(given)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is type(model)
    for got, want in zip(tf.nest.flatten(again(given)), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("kind", KINDS)
def test_training_drops_out(kind):
    model, given = fill(build_model(spec_of(kind))), inputs_of(kind)

    def outputs(**how):
        return np.concatenate([np.ravel(t) for t in tf.nest.flatten(model(given, **how))])

    still = outputs()
    np.testing.assert_array_equal(outputs(training=False), still)
    first, second = outputs(training=True), outputs(training=True)
    assert np.abs(first - still).max() > 1e-3 and np.abs(first - second).max() > 1e-3


def test_dropout_follows_keras_seed_and_differs_between_rows():
    x = tf.tile(tokens()[:1], (4, 1))

    def drawn():
        keras.utils.set_random_seed(7)
        model = fill(build_model(spec_of(rpr_k=[2])))
        return [model(x, training=True).numpy() for _ in range(2)]

    once, again = drawn(), drawn()
    np.testing.assert_array_equal(once, again)
    rows = [*once[0], *once[1]]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(rows) for b in rows[:i])


def test_dropout_keeps_its_rate_and_expectation():
    layer = fill(FFN(16, 32, activation="relu", pdrop=0.25))
    x = tf.tile(hidden()[:1], (2000, 1, 1))
    mean = tf.reduce_mean(layer(x, training=True), axis=0)
    np.testing.assert_allclose(mean, layer(x[:1])[0], atol=0.15)


def test_fit_trains_with_dropout_and_evaluates_without():
    model, _ = classifier(dropout=0.5)
    compiled(model, keras.optimizers.SGD(0.0))
    x, y = tokens().numpy(), np.array([0, 1, 2, 0])
    losses = [model.fit(x, y, verbose=0).history["loss"][0] for _ in range(2)]
    still = [model.evaluate(x, y, verbose=0) for _ in range(2)]
    assert still[0] == pytest.approx(still[1], abs=1e-6)
    assert losses[0] != pytest.approx(losses[1], abs=1e-4)
    assert all(loss != pytest.approx(still[0], abs=1e-4) for loss in losses)


def test_fit_under_recomputation_and_layer_drop():
    model, core = classifier(recompute=True, layer_drop=0.3, rpr_k=[2])
    before = snapshot(core)
    compiled(model, "sgd").fit(tokens().numpy(), np.array([0, 1, 2, 0]), verbose=0)
    changed = [p for p, value in snapshot(core).items() if np.abs(value - before[p]).max() > 0]
    assert len(changed) > len(before) / 2


def run_python(code, run=subprocess.run, **environ):
    """Run code in another process, which finds this package; returns its output."""
    return run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_replicas_draw_different_masks():
    code = """
import numpy as np, tensorflow as tf
processor = tf.config.list_physical_devices("CPU")[0]
one = tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(processor, [one, one])
from tests import preloaded
from tests.models.contract import fill, hidden
from tpu_tlm.models.layers.core import FFN
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    layer = fill(FFN(16, 32, activation="relu", pdrop=0.5))
found = strategy.run(lambda: layer(hidden()[:1], training=True))
first, second = strategy.experimental_local_results(found)
print("different" if np.abs(first - second).max() > 1e-3 else "equal")
"""
    done = run_python(code, preloaded.run)
    assert done.stdout.strip().endswith("different"), done.stderr[-2000:]


@pytest.mark.parametrize(
    "make",
    [
        lambda: MultiHeadedAttention(16, 2, pdrop=0.1),
        lambda: FFN(16, 32, activation="swiglu", pdrop=0.1),
        lambda: TransformerEncoderStack(small(), LENGTH),
        lambda: TransformerEncoderStack(small(mlp=True), LENGTH),
    ],
    ids=["attention", "ffn", "stack", "gated-mlp"],
)
def test_layers_in_a_functional_model(make, tmp_path):
    inputs = keras.Input((LENGTH, 16))
    layer = make()
    model = keras.Model(inputs, layer(inputs))
    fill(layer)
    x = hidden().numpy()
    model.compile("sgd", "mse")
    model.fit(x, x, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(x), model(x), atol=1e-6)


def test_a_head_with_stacking_layers_in_a_functional_model():
    inputs = keras.Input((16,))
    model = keras.Model(inputs, StackedHead(small(stacking_layers=[16], d_out=4), 16)(inputs))
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 16), np.float32), np.ones((4, 4), np.float32), verbose=0)


def test_frozen_layers_do_not_change_and_stay_frozen(tmp_path):
    model, core = classifier(rpr_k=[2])
    core.encoder.trainable = False
    before = snapshot(core)
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    x, y = tokens().numpy(), np.array([0, 1, 2, 0])
    compiled(model, optimizer).fit(x, y, verbose=0)
    for path, value in snapshot(core).items():
        same = np.array_equal(value, before[path])
        assert same == path.startswith("encoder/"), path
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").get_layer("core")
    assert not again.encoder.trainable and again.embeddings.trainable
    assert [w.path for w in again.trainable_variables] == [w.path for w in core.trainable_variables]


def test_weight_decay_excludes_by_the_names_of_our_variables():
    model, core = classifier(rpr_k=[2], position_encoding=["learned-with-bias", "shaw"])
    optimizer = keras.optimizers.SGD(1.0, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    optimizer.build(core.trainable_variables)
    before = snapshot(core)
    optimizer.apply([tf.zeros(v.shape) for v in core.trainable_variables])
    for path, value in snapshot(core).items():
        still = path.rsplit("/", 1)[1] in ("bias", "gamma", "beta")
        np.testing.assert_allclose(value, before[path] * (1.0 if still else 0.5), err_msg=path)


def test_the_mixed_policy(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model, core = classifier()
    finally:
        keras.config.set_dtype_policy("float32")
    assert core.compute_dtype == "bfloat16" and core(tokens()).dtype == tf.bfloat16
    assert all(v.dtype == "float32" for v in core.variables)
    compiled(model, "adam").fit(tokens().numpy(), np.array([0, 1, 2, 0]), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.get_layer("core").compute_dtype == "bfloat16"
    np.testing.assert_array_equal(
        again.predict(tokens(), verbose=0), model.predict(tokens(), verbose=0)
    )


def test_the_length_of_inputs_must_be_fixed():
    core = KINDS["embed"].model(spec_of())
    with pytest.raises(ValueError, match="keras.Input"):
        core(keras.Input((None,), dtype="int32"))


def test_another_backend_is_refused():
    done = run_python("import tpu_tlm.models.registry", KERAS_BACKEND="torch")
    last = done.stderr.strip().splitlines()[-1]
    assert "UsageError" in last and "KERAS_BACKEND=torch" in last and "unset" in last


def test_a_backend_that_was_imported_is_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    assert "jax" in unusable_backend({})
    monkeypatch.setattr(keras.config, "backend", lambda: "tensorflow")
    assert unusable_backend({"KERAS_BACKEND": "jax"}) is None
