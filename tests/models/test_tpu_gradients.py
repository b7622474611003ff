"""What TPUs store for the backward pass instead of computing it again: the same numbers."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tests.models.contract import fill, hidden, keys, small
from tests.models.test_score_groups import ENCODINGS, HEADS, LENGTH, MASKS
from tpu_tlm.models.layers import attention_group, core, score_groups, target, tpu_gradients
from tpu_tlm.models.layers.blocks import make_attention
from tpu_tlm.models.layers.core import ACTIVATIONS, FFN, GATED, Dense
from tpu_tlm.models.layers.decoder import TransformerDecoder
from tpu_tlm.models.layers.encoder import TransformerEncoder
from tpu_tlm.models.layers.gmlp import GatedMLPEncoder
from tpu_tlm.models.layers.target import for_v6e, runs_on, traced_for

V6E = ("TPU", "v6e-1")


def gradients(layer, device, x, **others):
    """Output and gradients of a program compiled in the form that it has for a device."""

    @tf.function(jit_compile=True, autograph=False)
    def run(x):
        with traced_for(*device), tf.GradientTape() as tape:
            tape.watch(x)
            out = tf.cast(layer(x, **others), tf.float32)
            loss = tf.reduce_sum(
                tf.square(out) * tf.cast(tf.range(1, out.shape[-1] + 1), out.dtype)
            )
        return [out, *tape.gradient(loss, [x, *layer.trainable_variables])]

    return [np.asarray(tf.convert_to_tensor(part), np.float64) for part in run(x)]


def errors(found, exact):
    """The largest difference of each tensor, over the largest number in it."""
    return np.array(
        [np.abs(f - e).max() / np.abs(e).max() for f, e in zip(found, exact, strict=True)]
    )


def attention_of(policy, **options):
    return fill(make_attention(small(num_heads=HEADS, **options), 1, dtype=policy))


def both_forms(monkeypatch, mask=None, key=None, **options):
    """Errors of bfloat16 attention against float32: recomputed, and with what is stored."""
    x, given = hidden(LENGTH), {"attention_mask": mask, "key": key}
    exact = gradients(attention_of("float32", **options), ("CPU",), x, **given)
    layer = attention_of("mixed_bfloat16", **options)
    stored = errors(gradients(layer, V6E, x, **given), exact)
    with monkeypatch.context() as patch:
        patch.setattr(score_groups, "STORED", 0)
        again = errors(gradients(layer, V6E, x, **given), exact)
    return again, stored


@pytest.fixture
def stored_calls(monkeypatch):
    """The answers of `stores_exponentials`."""
    answers = []
    asked = score_groups.stores_exponentials

    def recorded(q, k):
        answers.append(asked(q, k))
        return answers[-1]

    monkeypatch.setattr(attention_group, "stores_exponentials", recorded)
    return answers


@pytest.mark.parametrize("name", ENCODINGS)
def test_stored_exponentials_of_every_encoding(name, monkeypatch, stored_calls):
    again, stored = both_forms(monkeypatch, MASKS["padding"], keys(), **ENCODINGS[name])
    assert set(stored_calls) == {True, False}
    # As exact as the form that computes them again, of which bfloat16 makes one of a hundred.
    assert (stored < 2 * again + 0.01).all(), (again, stored)
    assert stored.max() < 0.05


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("dropped", [False, True])
def test_stored_exponentials_with_every_mask(name, dropped, monkeypatch, stored_calls):
    again, stored = both_forms(monkeypatch, MASKS[name], keys() if dropped else None)
    assert set(stored_calls) == {True, False}
    assert (stored < 2 * again + 0.01).all(), (again, stored)
    assert stored.max() < 0.05


def test_where_exponentials_are_stored():
    def stores(device, rows=64, heads=12, length=128, dtype=tf.bfloat16):
        x = tf.zeros((1, 1, 1, 1), dtype)
        with traced_for(*device):
            shape = (rows, heads, length, 64)
            return score_groups.stores_exponentials(_Shaped(shape, x), _Shaped(shape, x))

    assert stores(V6E)  # BERT-base, 64 x 128
    for other in (("CPU",), ("GPU",), ("TPU",), ("TPU", "v5e-8")):
        assert not stores(other)
    assert not stores(V6E, dtype=tf.float32)
    assert not stores(V6E, length=256)
    assert not stores(V6E, rows=256)  # 100 MB of them
    assert not stores(V6E, rows=None)


class _Shaped:
    """A tensor of a shape that is not allocated."""

    def __init__(self, shape, like):
        self.shape, self.dtype = shape, like.dtype


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - set(GATED)))
def test_activations_with_stored_derivatives(name):
    x = tf.cast(tf.linspace(-8.0, 8.0, 4001), tf.bfloat16)
    weights = tf.cast(tf.linspace(0.5, 2.0, 4001), tf.bfloat16)
    run = ACTIVATIONS[name]

    @tf.function(jit_compile=True, autograph=False)
    def found(x):
        with traced_for(*V6E), tf.GradientTape() as tape:
            tape.watch(x)
            y = tpu_gradients.activated(run, x, core._WITH_DERIVATIVE.get(run))
        return y, tape.gradient(y, x, output_gradients=weights)

    wide = tf.cast(x, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(wide)
        exact = run(wide)
    derivative = tape.gradient(exact, wide)
    y, gradient = found(x)
    assert y.dtype == gradient.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(y, tf.float32), exact, rtol=2**-8, atol=1e-5)
    expected = derivative * tf.cast(weights, tf.float32)
    np.testing.assert_allclose(tf.cast(gradient, tf.float32), expected, rtol=2**-7, atol=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_feed_forward(name):
    """As exact as in the form of other TPUs, for every activation."""
    sizes = {"activation": name, "pdrop": 0.1, "name": "ffn"}
    x = hidden(6)
    exact = gradients(fill(FFN(16, 32, **sizes)), ("CPU",), x, key=keys())
    layer = fill(FFN(16, 32, **sizes, dtype="mixed_bfloat16"))
    other = errors(gradients(layer, ("TPU", "v5e-1"), x, key=keys()), exact)
    wide = errors(gradients(layer, V6E, x, key=keys()), exact)
    assert (wide < 2 * other + 0.01).all(), (other, wide)
    assert wide.max() < 0.05


@pytest.mark.parametrize("order", ["post-layer-norm", "pre-layer-norm", "mead", "mlp", "decoder"])
def test_blocks(order, monkeypatch):
    """Whole blocks, residual connections with dropout included, as exact as on other TPUs."""
    x, given = hidden(6), {"key": keys()}

    def block(policy):
        if order == "mlp":
            return fill(GatedMLPEncoder(small(mlp=True), 6, name="b", dtype=policy))
        config = small(transformer_type="mead" if order == "decoder" else order)
        kind = TransformerDecoder if order == "decoder" else TransformerEncoder
        return fill(kind(config, 0, name="b", dtype=policy))

    if order == "decoder":
        given["encoder_output"] = hidden(7, seed=1)
    exact = gradients(block("float32"), ("CPU",), x, **given)
    layer = block("mixed_bfloat16")
    other = errors(gradients(layer, ("TPU", "v5e-1"), x, **given), exact)
    wide = errors(gradients(layer, V6E, x, **given), exact)
    assert (wide < 2 * other + 0.02).all(), (other, wide)
    monkeypatch.setattr(tpu_gradients, "dropout_mask", lambda *_: tf.ones((1, 1, 1), tf.bool))
    assert errors(gradients(layer, V6E, x, **given), exact).max() > 0.1


def test_sums_of_biases_are_exact():
    """4,096 ones: a sum in bfloat16 alone would stay at 256."""
    gradient = tf.cast(tf.ones((32, 128, 4)), tf.bfloat16)

    @tf.function(jit_compile=True, autograph=False)
    def found(gradient):
        with traced_for(*V6E):
            return tpu_gradients.bias_sums(gradient)

    np.testing.assert_array_equal(tf.cast(found(gradient), tf.float32), np.full(4, 4096.0))


def program(device, dtype="mixed_bfloat16", key=True):
    """The HLO of a dense and a feed-forward layer's gradients."""
    dense, ffn = (
        Dense(16, 16, name="d", dtype=dtype),
        FFN(16, 32, activation="gelu", pdrop=0.0, name="f", dtype=dtype),
    )
    fill(dense), fill(ffn)

    @tf.function(jit_compile=True, autograph=False)
    def run(x):
        with traced_for(*device), tf.GradientTape() as tape:
            loss = tf.reduce_sum(ffn(dense(x), key=keys() if key else None))
        return tape.gradient(loss, [*dense.trainable_variables, *ffn.trainable_variables])

    x = tf.TensorSpec((4, 8, 16), tf.float32)
    return run.experimental_get_compiler_ir(x)(stage="hlo")


def test_only_for_chips_known_as_v6e(monkeypatch):
    monkeypatch.delenv("TPU_ACCELERATOR_TYPE", raising=False)
    assert "opt-barrier" in program(V6E)
    for other in (("TPU", "v5e-8"), ("TPU", "v5litepod-8"), ("TPU",), ("CPU",), ("GPU",)):
        assert "opt-barrier" not in program(other), other
    assert "opt-barrier" not in program(V6E, "float32")
    assert "opt-barrier" not in program(V6E, key=False)  # no training
    monkeypatch.setattr(tpu_gradients, "LARGEST", 100)
    assert "opt-barrier" not in program(V6E)


class Stopped(Exception):
    """Raised by a test's stand-in once it was called."""


@pytest.mark.parametrize("module", ["setup", "finetuning.finetune"])
def test_training_names_its_device(module, monkeypatch):
    names = []

    def named(name):
        names.append(name)
        raise Stopped

    where = importlib.import_module(f"tpu_tlm.training.{module}")
    monkeypatch.setattr(where, "runs_on", named)
    monkeypatch.setattr(where, "check", lambda _: None, raising=False)
    device = SimpleNamespace(name="v6e-8", kind="tpu", replicas=8)
    with pytest.raises(Stopped):
        (where.build if module == "setup" else where.finetune)(SimpleNamespace(), device)
    assert names == ["v6e-8"]


def test_how_a_tpu_is_known(monkeypatch):
    monkeypatch.delenv("TPU_ACCELERATOR_TYPE", raising=False)
    monkeypatch.setattr(target, "_own_name", "")
    monkeypatch.setattr(target, "_target", lambda: "TPU")
    assert not for_v6e()
    runs_on("v6e")
    assert for_v6e()
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    assert not for_v6e()
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v6e-8")
    assert for_v6e()
    with traced_for("TPU", "v5e-1"):
        assert not for_v6e()
    monkeypatch.setattr(target, "_target", lambda: "CPU")
    assert not for_v6e()
