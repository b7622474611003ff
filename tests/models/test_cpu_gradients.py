"""Gradients as CPUs compute them: the numbers of other devices, by programs without repetition."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.models import test_models
from tests.models.contract import tokens
from tests.models.test_models import gradients_of
from tpu_tlm.models.layers import core, cpu_gradients
from tpu_tlm.models.layers.target import for_processor, traced_for
from tpu_tlm.objectives.base import cross_entropy
from tpu_tlm.planning import lower

BERT = {
    "position_encoding": ["learned"],
    "embeddings_reduction": "sum-layer-norm",
    "transformer_type": "post-layer-norm",
}
MODELS = {
    "bert": ("mlm", {**BERT, "mlm_head": "bert", "output_bias": True}),
    "pre-layer-norm": ("mlm", {"transformer_type": "pre-layer-norm"}),
    "no biases": ("mlm", {"use_bias": False, "norm_bias": False, "activation": "geglu"}),
    "rms-norm": ("mlm", {"norm_type": "rms-norm", "position_encoding": ["t5"]}),
    "shaw": ("mlm", {"rpr_k": [3]}),
    "rotary, window": ("mlm", {"position_encoding": ["rotary"], "local_window": 2}),
    "single head": ("mlm", {"num_heads": 1, "single_head": True}),
    "untied": ("mlm", {"tie_weights": False}),
    "recomputed": ("mlm", {"recompute": True}),
    "causal": ("clm", {}),
    "decoder": ("seq2seq", {"rpr_k": [3]}),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_same_gradients_for_every_device(name):
    kind, options = MODELS[name]
    inputs = {"x": tokens(), "y": tokens()} if kind == "seq2seq" else tokens()
    run, values = gradients_of(kind, inputs, num_layers=1, **options)

    def found(device_type):
        with traced_for(device_type):
            return tf.function(lambda v: run(v), autograph=False)(values)

    (loss, here), (expected_loss, there) = found("CPU"), found("TPU")
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    assert here.keys() == there.keys()
    for path, expected in there.items():
        a, b = tf.convert_to_tensor(here[path]), tf.convert_to_tensor(expected)
        np.testing.assert_allclose(
            a, b, atol=3e-6 * float(tf.reduce_max(tf.abs(b))) + 1e-5, err_msg=path
        )


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("length", [1, 40])
def test_sums_of_columns(rows, length):
    x = np.random.default_rng(0).standard_normal((rows, length, 6)).astype(np.float32)
    bias = np.arange(6, dtype=np.float32)
    weights = np.random.default_rng(1).standard_normal((rows, length, 6)).astype(np.float32)

    @tf.function(jit_compile=True, autograph=False)
    def both(x, bias, weights):
        with tf.GradientTape() as tape:
            tape.watch([x, bias])
            added = tf.reduce_sum(cpu_gradients.add_bias(x, bias) * weights)
            scaled = tf.reduce_sum(cpu_gradients.multiply_by_scale(x, bias) * weights)
            total = added + 2.0 * scaled
        return total, *tape.gradient(total, [x, bias])

    total, d_x, d_bias = both(x, bias, weights)
    np.testing.assert_allclose(
        total, ((x + bias) * weights).sum() + 2 * (x * bias * weights).sum(), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(d_x, weights + 2 * bias * weights, rtol=1e-6)
    by_hand = weights.sum((0, 1)) + 2 * (x * weights).sum((0, 1))
    np.testing.assert_allclose(d_bias, by_hand, rtol=1e-4, atol=1e-5)


def test_sums_are_precise():
    # 0.1 cannot be added 300,000 times one after the other in float32: the sum would be 30,091.
    x = tf.fill((300, 1000, 2), 0.1)
    found = tf.function(cpu_gradients.column_sums, jit_compile=True)(x)
    np.testing.assert_allclose(found, [30000.0, 30000.0], rtol=1e-5)


def test_sums_of_short_texts_compute_nothing_again():
    """As many numbers, in rows of 32 and of 64, and a product that uses what is summed too.

    Computed again for the sum, those of 32 took three times as long.
    """
    calls = []
    for shape in ((32, 32, 256), (16, 64, 256)):
        x, w = tf.random.stateless_normal(shape, (0, 1)), tf.ones((256, 256))

        @tf.function(jit_compile=True, autograph=False)
        def run(x, w):
            for _ in range(6):
                x = tf.nn.gelu(x)
            return cpu_gradients.column_sums(x), tf.matmul(tf.reshape(x, (-1, 256)), w)

        run(x, w)
        calls.append(lambda run=run, x=x, w=w: run(x, w))
    least = [1e9, 1e9]
    for _ in range(30):
        for number, call in enumerate(calls):
            began = time.perf_counter()
            call()
            least[number] = min(least[number], time.perf_counter() - began)
    assert least[0] < 1.7 * least[1]


@pytest.mark.parametrize("shape", [(6, 16, 3), (7, 16, 3), (2, 8, 3), (1, 1, 3), (5, 32, 3)])
@pytest.mark.parametrize("known", [True, False])
def test_sums_of_columns_of_short_texts(shape, known):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    signature = tf.TensorSpec(shape if known else (None, *shape[1:]), tf.float32)
    found = tf.function(cpu_gradients.column_sums, input_signature=[signature])(x)
    np.testing.assert_allclose(found, x.sum((0, 1)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("xla", [True, False])
def test_cross_entropy_as_for_other_devices(xla):
    rng = np.random.default_rng(0)
    logits = tf.constant(20 * rng.standard_normal((4, 5, 33)), tf.float32)
    ids, weights = rng.integers(0, 33, (4, 5)), rng.random((4, 5))
    # Outside the vocabulary, as labels that are left out may be.
    ids[0, 1], ids[2, 3], weights[0, 1], weights[2, 3] = -100, 33, 0, 0

    def found(device_type):
        @tf.function(jit_compile=xla, autograph=False)
        def call(labels, logits, weights):
            with traced_for(device_type), tf.GradientTape() as tape:
                tape.watch(logits)
                losses, right = cross_entropy(labels, logits)
                total = tf.reduce_sum(losses * weights)
            return losses, right, tape.gradient(total, logits)

        return call(tf.constant(ids, tf.int32), logits, tf.constant(weights, tf.float32))

    for a, b in zip(found("CPU"), found("TPU"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def largest_fusion(layers, length, monkeypatch):
    """Operands of the elementwise program with the most of them, in the gradients of a model."""
    monkeypatch.setattr(test_models, "LENGTH", length)
    options = {**BERT, "d_model": 64, "d_ff": 96, "num_layers": layers}
    run, values = gradients_of("mlm", tokens(length), **options)
    compiled = tf.function(run, autograph=False, jit_compile=True)
    text = compiled.experimental_get_compiler_ir(values)(stage="optimized_hlo")
    fused = re.findall(r"^%?fused_computation\S* \((.*)\) -> ", text, re.MULTILINE)
    return max(arguments.count(": ") for arguments in fused)


@pytest.mark.parametrize("length", [24, 40])
def test_no_gradient_is_computed_again_in_every_layer_below(length, monkeypatch):
    assert largest_fusion(4, length, monkeypatch) == largest_fusion(2, length, monkeypatch)


def test_gradients_that_are_not_stored_are_computed_again(monkeypatch):
    for module in (core, cpu_gradients):
        monkeypatch.setattr(module, "stored", lambda x: x)
    few, many = (largest_fusion(layers, 24, monkeypatch) for layers in (2, 4))
    assert many > few + 20


def test_the_device(monkeypatch):
    assert for_processor()
    with traced_for("TPU"):
        assert not for_processor()
        with traced_for("CPU"):
            assert for_processor()
        assert not for_processor()
    with pytest.raises(ZeroDivisionError), traced_for("GPU"):
        _ = 1 / 0
    assert for_processor()
    for kind in ("GPU", "TPU"):
        monkeypatch.setattr(
            tf.config, "list_logical_devices", lambda wanted, kind=kind: [wanted] * (wanted == kind)
        )
        assert not for_processor()


def test_a_program_for_the_tpu_is_traced_as_such(monkeypatch):
    from tests.planning.steps import small_step

    step, corpora = small_step(objective="mlm")
    seen = []
    monkeypatch.setattr(
        type(step), "__call__", lambda *_: seen.append(for_processor()) or tf.zeros([])
    )
    from tpu_tlm.planning.stand_in import batch_specs

    lower.trace(step, batch_specs(corpora.train, 8))
    assert seen == [False]
