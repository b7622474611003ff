"""The step of every task: compiled by XLA, equal for any split; rates by depth; frozen values."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tpu_tlm.config import ModelConfig, OptimConfig
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.tasks.base import Task
from tpu_tlm.tasks.head import HeadSpec
from tpu_tlm.tasks.model import build_task_model, initial_values
from tpu_tlm.tasks.registry import TASKS
from tpu_tlm.training.finetuning.step import ScaledOptimizer, TaskStep, depth_of, learning_rates
from tpu_tlm.training.optimizers import make_optimizer

SPEC = ModelSpec(
    ModelConfig(
        d_model=16,
        d_ff=32,
        num_heads=2,
        num_layers=2,
        rpr_k=[0],
        type_vocab_size=2,
        position_encoding=["learned"],
        dropout=0.2,
    ),
    50,
    8,
    kind="embed",
    prefix_id=2,
    suffix_id=3,
)
ROWS = 8


def step_of(name: str, accum: int = 1, rates: list[float] | None = None) -> TaskStep:
    kind: type[Task] = TASKS[name]
    task = kind([] if name == "regress" else ["a", "b", "c"])
    model = build_task_model(SPEC, HeadSpec(task.outputs, tokens=task.per_token))
    rng = np.random.default_rng(0)
    variables = named_variables(model)
    encoder = {p: rng.normal(0, 0.1, v.shape).astype(np.float32) for p, v in variables.items()}
    for path, value in initial_values(model, encoder, {}, 0).items():
        variables[path].assign(value)
    rates = rates or [1.0] * len(variables)
    return TaskStep(
        model,
        task,
        ScaledOptimizer(make_optimizer(OptimConfig()), rates),
        lambda index: tf.constant(1e-2),
        1.0,
        0,
        accum,
        frozen=tuple(rate == 0.0 for rate in rates),
    )


def batch_of(name: str) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(1)
    x = rng.integers(4, 50, (ROWS, 8))
    x[3:, 5:] = 0
    label: np.ndarray = rng.integers(0, 3, ROWS).astype(np.int32)
    if name == "multilabel":
        label = rng.integers(0, 2, (ROWS, 3)).astype(np.float32)
    elif name == "regress":
        label = rng.normal(size=ROWS).astype(np.float32)
    elif name == "tag":
        label = np.where(x > 0, rng.integers(-1, 3, x.shape), -1).astype(np.int32)
    weight = np.array([1, 1, 0.5, 0.5, 1, 1, 1, 0], np.float32)
    return {
        "x": tf.constant(x, tf.int32),
        "label": tf.constant(label),
        "weight": tf.constant(weight),
        "position": tf.range(ROWS, dtype=tf.int64),
    }


def run(step: TaskStep, batch: dict[str, tf.Tensor], xla: bool) -> list[np.ndarray]:
    values = [tf.constant(v) for v in named_variables(step.model).values()]
    slots = step.optimizer.init_slots(values)
    function = tf.function(step, jit_compile=xla or None, autograph=False)
    result = function(values, slots, batch, tf.constant(0, tf.int64))
    return [np.asarray(v) for v in result.values]


@pytest.mark.parametrize("name", TASKS)
def test_a_step_is_equal_compiled_and_in_micro_batches(name: str) -> None:
    batch = batch_of(name)
    plain = run(step_of(name), batch, False)
    compiled = run(step_of(name, accum=2), batch, True)
    # Adam divides by the gradient's size: where that is rounding error, so is the difference.
    for one, two in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(one, two, atol=2e-4)


def test_a_row_without_weight_changes_nothing() -> None:
    batch = batch_of("classify")
    changed = {**batch, "label": tf.concat([batch["label"][:7], [2]], 0)}
    for one, two in zip(
        run(step_of("classify"), batch, False),
        run(step_of("classify"), changed, False),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)


def test_rates_fall_with_depth() -> None:
    paths = [
        "embeddings/x/table",
        "encoder/0/ln1/gamma",
        "encoder/1/ln1/gamma",
        "encoder/ln/gamma",
        "task/out/kernel",
    ]
    assert [depth_of(p, 2) for p in paths] == [0, 1, 2, 3, 3]
    rates = learning_rates(paths, 2, layer_decay=0.5, head=4.0, freeze=0)
    assert rates == [0.125, 0.25, 0.5, 1.0, 4.0]
    rates = learning_rates(paths, 2, layer_decay=1.0, head=1.0, freeze=1)
    assert rates == [0.0, 0.0, 1.0, 1.0, 1.0]


def test_frozen_values_stay_and_do_not_count_in_the_norm() -> None:
    paths = list(named_variables(step_of("classify").model))
    rates = [float(path.startswith("task/")) for path in paths]
    step = step_of("classify", rates=rates)
    batch = batch_of("classify")
    before = [np.asarray(v) for v in named_variables(step.model).values()]
    after = run(step, batch, False)
    for path, old, new, rate in zip(paths, before, after, rates, strict=True):
        assert np.array_equal(old, new) == (rate == 0.0), path
    values = [tf.constant(v) for v in before]
    grads, _ = step.gradients(values, batch)
    for grad, rate in zip(grads, rates, strict=True):
        assert bool(tf.reduce_any(grad != 0.0)) == (rate > 0.0)


def test_a_scaled_optimizer_is_the_optimizer_with_another_rate() -> None:
    inner = make_optimizer(OptimConfig(optimizer="adamw", weight_decay=0.1))
    values = [tf.constant([[1.0, -2.0]]), tf.constant([[3.0, 0.5]])]
    grads = [tf.constant([[0.3, 0.1]]), tf.constant([[-0.2, 0.7]])]
    scaled = ScaledOptimizer(inner, [0.5, 0.0])
    slots = scaled.init_slots(values)
    index = tf.constant(0)
    found, new_slots = scaled.apply(
        values, grads, slots, lr=tf.constant(0.1), step=index, decay_mask=[True, True]
    )
    expected, _ = inner.apply(
        values[:1], grads[:1], slots[:1], lr=tf.constant(0.05), step=index, decay_mask=[True]
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    np.testing.assert_array_equal(found[1], values[1])
    np.testing.assert_array_equal(new_slots[1][0], slots[1][0])
