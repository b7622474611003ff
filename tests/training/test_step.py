"""The pure step: what it depends on, and what it does not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tpu_tlm.config import MlmConfig, ModelConfig, OptimConfig
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.mlm import MaskedLanguageModeling, Specials
from tpu_tlm.training.optimizers import make_optimizer
from tpu_tlm.training.step import TrainStep, _micro_batches

ROWS, LENGTH, VOCAB = 8, 16, 50
SPECIALS = Specials(VOCAB, 0, 5, (0, 1, 2, 3, 4, 5))


def make_step(*, dropout=0.1, grad_accum=1, precision="float32", clip=1.0, seed=0, **model):
    config = ModelConfig(
        d_model=32, d_ff=64, num_heads=4, num_layers=1, rpr_k=[3], dropout=dropout, **model
    )
    built = build_model(ModelSpec(config, VOCAB, LENGTH), precision=precision, seed=1)
    optimizer = make_optimizer(OptimConfig())
    return TrainStep(
        built,
        MaskedLanguageModeling(MlmConfig(), SPECIALS),
        optimizer,
        lambda i: tf.constant(1e-3),
        clip,
        seed,
        grad_accum,
    )


def make_batch(rows=ROWS, start=0, seed=0):
    x = np.random.default_rng(seed).integers(6, VOCAB, (rows, LENGTH)).astype(np.int32)
    x[0, 10:] = 0
    return {
        "x": tf.constant(x),
        "w": tf.fill((rows, LENGTH // 8), tf.constant(255, tf.uint8)),
        "position": tf.range(start, start + rows, dtype=tf.int64),
    }


def run(step, batch, *, index=0, xla=False):
    values = [tf.convert_to_tensor(v) for v in named_variables(step.model).values()]
    function = tf.function(step, jit_compile=xla, autograph=False)
    return function(values, step.optimizer.init_slots(values), batch, tf.constant(index, tf.int64))


def test_two_micro_batches_are_one_batch():
    whole, parts = run(make_step(), make_batch()), run(make_step(grad_accum=4), make_batch())
    np.testing.assert_allclose(whole.sums.loss, parts.sums.loss, rtol=1e-6)
    assert whole.sums.weight == parts.sums.weight
    np.testing.assert_allclose(whole.norm, parts.norm, rtol=1e-5)
    for a, b in zip(whole.slots, parts.slots, strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=1e-7)


@pytest.mark.parametrize("replicas", [2, 4])
def test_a_micro_batch_holds_the_same_examples_for_any_number_of_replicas(replicas):
    """What an objective that compares the examples of a micro-batch relies on."""
    rows = tf.range(48)
    whole = _micro_batches(rows, 4).numpy()
    shares = [_micro_batches(share, 4).numpy() for share in tf.split(rows, replicas)]
    assert whole.shape == (4, 12) and sorted(whole.ravel()) == list(range(48))
    for i in range(4):
        assert sorted(whole[i]) == sorted(np.concatenate([share[i] for share in shares]))


def test_halves_of_a_batch_add_up():
    """As on two replicas, dropout included: masks depend on the example, not on row or replica."""
    step, batch = make_step(), make_batch()
    values = [tf.convert_to_tensor(v) for v in named_variables(step.model).values()]
    gradients = tf.function(step.gradients, autograph=False)
    grads, sums = gradients(values, batch)
    half = [
        gradients(values, {k: v[i : i + ROWS // 2] for k, v in batch.items()})
        for i in (0, ROWS // 2)
    ]
    np.testing.assert_allclose(sums.loss, half[0][1].loss + half[1][1].loss, rtol=1e-6)
    for whole, a, b in zip(grads, half[0][0], half[1][0], strict=True):
        np.testing.assert_allclose(whole, a + b, atol=2e-5)


def test_replicas_with_the_same_texts_drop_and_hide_differently_and_repeat():
    """The second half of the batch has the texts of the first: only random numbers differ."""
    step, half = make_step(dropout=0.3), ROWS // 2
    x = tf.tile(make_batch()["x"][:half], (2, 1))
    batch = {**make_batch(start=1000), "x": x}

    def shares(values):
        return values.numpy()[:half], values.numpy()[half:]

    def drawn():
        key = Key.of(step.seed, batch["position"])
        return step.model.encode({"x": x}, key=key), step.objective.masked(
            batch, key.fold("corruption"), True
        )[1]

    encoded, masked = drawn()
    for first, second in (shares(encoded), shares(masked)):
        assert all(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    for before, after in zip((encoded, masked), drawn(), strict=True):
        np.testing.assert_array_equal(before, after)
    plain = shares(step.model.encode({"x": x}))
    np.testing.assert_allclose(*plain, atol=1e-6)


def test_the_clip_acts_on_the_gradient_of_the_mean():
    free, clipped = run(make_step(clip=0.0), make_batch()), run(make_step(clip=0.1), make_batch())
    np.testing.assert_allclose(free.norm, clipped.norm, rtol=1e-6)
    assert free.norm > 0.1
    for a, b in zip(free.slots, clipped.slots, strict=True):
        np.testing.assert_allclose(a[0] * (0.1 / free.norm), b[0], atol=1e-6)


def test_a_batch_without_targets_changes_nothing_but_decay():
    batch = {**make_batch(), "x": tf.zeros((ROWS, LENGTH), tf.int32)}
    result = run(make_step(), batch)
    assert result.sums.weight == 0 and result.sums.loss == 0 and result.norm == 0
    assert all(np.isfinite(v).all() for v in result.values)


def test_dropout_changes_with_seed_and_position_and_repeats():
    first, again = run(make_step(), make_batch()), run(make_step(), make_batch())
    assert first.sums.loss == again.sums.loss
    assert run(make_step(dropout=0.0), make_batch()).sums.loss != first.sums.loss
    assert run(make_step(seed=1), make_batch()).sums.loss != first.sums.loss
    assert run(make_step(), make_batch(start=ROWS)).sums.loss != first.sums.loss


def test_xla_and_plain_tensorflow_agree():
    compiled, plain = run(make_step(), make_batch(), xla=True), run(make_step(), make_batch())
    np.testing.assert_allclose(compiled.sums.loss, plain.sums.loss, rtol=1e-5)
    assert compiled.sums.weight == plain.sums.weight
    np.testing.assert_allclose(compiled.norm, plain.norm, rtol=1e-4)


@pytest.mark.parametrize("order", ["pre-layer-norm", "post-layer-norm", "mead"])
def test_bfloat16_keeps_float32_state_and_comes_close(order):
    exact = run(make_step(transformer_type=order), make_batch())
    half = run(make_step(transformer_type=order, precision="bfloat16"), make_batch())
    assert all(v.dtype == tf.float32 for v in [*half.values, *tf.nest.flatten(half.slots)])
    np.testing.assert_allclose(half.sums.loss, exact.sums.loss, rtol=2e-2)


def test_no_dynamic_dimension_no_string_no_host_callback():
    step, batch = make_step(grad_accum=2), make_batch()
    values = [tf.convert_to_tensor(v) for v in named_variables(step.model).values()]
    traced = tf.function(step, autograph=False).get_concrete_function(
        values, step.optimizer.init_slots(values), batch, tf.TensorSpec([], tf.int64)
    )
    graphs = [
        traced.graph,
        *(f.graph for f in traced.graph._functions.values() if hasattr(f, "graph")),
    ]
    host = {"PyFunc", "EagerPyFunc", "PyFuncStateless", "PrintV2", "Where", "Unique", "AsString"}
    for graph in graphs:
        # TensorFlow inserts placeholders of unknown shape for values that a loop condition ignores.
        for op in (op for op in graph.get_operations() if "redundant_placeholder" not in op.name):
            assert op.type not in host, op
            for tensor in op.outputs:
                assert tensor.dtype != tf.string, op
                if tensor.dtype not in (tf.variant, tf.resource):
                    assert tensor.shape.is_fully_defined(), op


def test_the_gradient_is_the_slope_of_the_loss():
    step, batch = make_step(dropout=0.1), make_batch()
    values = [tf.convert_to_tensor(v) for v in named_variables(step.model).values()]
    grads, _ = step.gradients(values, batch)
    rng = np.random.default_rng(0)
    direction = [tf.constant(rng.standard_normal(v.shape), tf.float32) for v in values]
    width = 1e-3

    def loss(sign):
        moved = [v + sign * width * d for v, d in zip(values, direction, strict=True)]
        return float(step.sums(moved, batch, training=True).loss)

    slope = (loss(1) - loss(-1)) / (2 * width)
    expected = sum(float(tf.reduce_sum(g * d)) for g, d in zip(grads, direction, strict=True))
    assert slope == pytest.approx(expected, rel=0.02)


def test_weight_decay_changes_matrices_only():
    """With zero gradients an update is the decay alone: norms, biases and scalars stay."""
    step = make_step()
    step = dataclasses.replace(
        step,
        optimizer=make_optimizer(OptimConfig(optimizer="sgd", beta1=0.0, weight_decay=0.5)),
        schedule=lambda i: tf.constant(0.1),
    )
    named = {path: np.asarray(v) + 1.0 for path, v in named_variables(step.model).items()}
    values = [tf.constant(v, tf.float32) for v in named.values()]
    batch = {**make_batch(), "x": tf.zeros((ROWS, LENGTH), tf.int32)}
    update = tf.function(step, autograph=False)
    result = update(values, step.optimizer.init_slots(values), batch, tf.constant(0, tf.int64))
    decayed, exempt = set(), ("bias", "gamma", "beta")
    for (path, before), after in zip(named.items(), result.values, strict=True):
        if np.array_equal(before.astype(np.float32), after):
            assert before.ndim < 2 or path.rsplit("/", 1)[-1].endswith(exempt)
        else:
            np.testing.assert_allclose(after, before * 0.95, rtol=1e-6)
            decayed.add(path)
    assert {p for p, v in named.items() if v.ndim >= 2 and not p.endswith(exempt)} == decayed
    assert any(v.ndim == 1 for v in named.values())
