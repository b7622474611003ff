"""The dual encoder's losses and ranks against NumPy, negatives of other replicas, gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tpu_tlm.config import ContrastiveConfig, ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.base import LossSums, ObjectiveOptions
from tpu_tlm.objectives.contrastive import LARGEST_SCALE, DualEncoding, scale_of
from tpu_tlm.objectives.replicas import Replicas

ROWS, WIDTH = 12, 6
LOSSES = ("contrastive", "symmetric", "triplet", "all", "all_mean")


class Vectors:
    """A model whose vectors are its inputs."""

    def __init__(self, temperature: float = 1.3) -> None:
        self.temperature = tf.Variable(temperature)

    def __call__(
        self, inputs: dict[str, tf.Tensor], key: Key | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return inputs["x"], inputs["y"]


def batch_of(seed: int = 0, rows: int = ROWS, near: float = 0.5) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, WIDTH)).astype(np.float32)
    y = (near * x + rng.normal(size=x.shape)).astype(np.float32) * 3
    return {
        "x": tf.constant(x),
        "y": tf.constant(y),
        "position": tf.range(100, 100 + rows, dtype=tf.int64),
    }


def softmax_loss(logits: np.ndarray) -> np.ndarray:
    return np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)


def expected(
    batch: dict[str, tf.Tensor],
    config: ContrastiveConfig,
    temperature: float,
    training: bool = True,
) -> dict[str, float]:
    """Mean loss and metrics by their definitions, in float64 and with loops."""
    u, v = (batch[name].numpy().astype(np.float64) for name in "xy")
    if "valid" in batch:
        u, v = u[batch["valid"].numpy() > 0], v[batch["valid"].numpy() > 0]
    cosine = (u / np.linalg.norm(u, axis=1, keepdims=True)) @ (
        v / np.linalg.norm(v, axis=1, keepdims=True)
    ).T
    n, scale = len(u), np.exp(temperature)
    if config.loss == "triplet":
        hinges = [
            [max(0.0, config.margin + cosine[i, j] - cosine[i, i]) for j in range(n) if j != i]
            for i in range(n)
        ]
        losses = np.mean(hinges, axis=1)
    elif config.loss in ("contrastive", "symmetric"):
        rows, columns = softmax_loss(cosine * scale), softmax_loss(cosine.T * scale)
        losses = rows if config.loss == "contrastive" else (rows + columns) / 2
    else:
        done = (
            np.minimum(batch["position"].numpy()[:n, None] / config.scale_examples, 1.0)
            if training
            else 1.0
        )
        losses = softmax_loss(cosine * (1 + (np.sqrt(WIDTH) - 1) * done)) * (
            n if config.loss == "all" else 1
        )
    ranks = np.array([1 + sum(cosine[i, j] > cosine[i, i] for j in range(n)) for i in range(n)])
    return {
        "loss": losses.mean(),
        "mrr": np.mean(1 / ranks),
        **{f"recall@{k}": np.mean(ranks <= k) for k in (1, 5, 10)},
    }


def means(sums: LossSums) -> dict[str, float]:
    return {
        "loss": float(sums.loss / sums.weight),
        **{name: float(total / count) for name, (total, count) in sums.metrics.items()},
    }


def asked(
    config: ContrastiveConfig,
    batch: dict[str, tf.Tensor],
    model: Any = None,
    training: bool = True,
    **more: Any,
) -> LossSums:
    return DualEncoding(config)(
        model or Vectors(), batch, Key.of(0, batch["position"]), training=training, **more
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_ranks_are_those_of_the_definition(loss: str, training: bool) -> None:
    config, batch = ContrastiveConfig(loss=loss, scale_examples=110), batch_of()
    found = means(asked(config, batch, training=training))
    for name, value in expected(batch, config, 1.3, training).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    assert 0 < found["recall@1"] < found["recall@5"] < 1, "the case must tell something"


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_that_fill_up_a_batch_are_no_queries_and_no_candidates(loss: str) -> None:
    config, batch = ContrastiveConfig(loss=loss), batch_of()
    batch["valid"] = tf.constant([1.0] * 7 + [0.0] * 5)
    found = means(asked(config, batch, training=False))
    for name, value in expected(batch, config, 1.3, training=False).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_sum_over_replicas_is_the_global_loss_and_so_is_its_gradient(loss: str) -> None:
    """Two replicas simulated one after the other: the all-gather is the sum of both tables, and
    its gradient that of all replicas."""
    config, batch, model = ContrastiveConfig(loss=loss, scale_examples=110), batch_of(), Vectors()
    halves = [{name: value[i * 6 : i * 6 + 6] for name, value in batch.items()} for i in (0, 1)]

    def gradient(whole: bool) -> tuple[list[tf.Tensor], LossSums]:
        with tf.GradientTape() as tape:
            tape.watch([batch["x"], batch["y"]])
            if whole:
                sums = asked(config, batch, model)
            else:
                parts = [
                    {name: value[i * 6 : i * 6 + 6] for name, value in batch.items()}
                    for i in (0, 1)
                ]
                tables: list[list[tf.Tensor]] = []
                for i, part in enumerate(parts):  # first round: what each one hands in

                    def hand_in(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
                        tables.append(tensors)
                        return tensors

                    asked(config, part, model, replicas=Replicas(2, tf.constant(i), hand_in))
                together = [tf.add_n(pair) for pair in zip(*tables, strict=True)]
                each = [
                    asked(
                        config,
                        part,
                        model,
                        replicas=Replicas(2, tf.constant(i), lambda _: together),
                    )
                    for i, part in enumerate(parts)
                ]
                sums = tf.nest.map_structure(lambda a, b: a + b, *each)
        return tape.gradient(
            sums.loss, [batch["x"], batch["y"], model.temperature], unconnected_gradients="zero"
        ), sums

    (one, one_sums), (two, two_sums) = gradient(True), gradient(False)
    np.testing.assert_allclose(tf.nest.flatten(two_sums), tf.nest.flatten(one_sums), rtol=1e-5)
    for a, b in zip(two, one, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    alone = asked(config, halves[0], model)
    assert abs(means(alone)["loss"] - means(one_sums)["loss"]) > 1e-3, (
        "the case must tell something"
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_the_temperature_learns_where_the_loss_has_one(loss: str) -> None:
    for learn in (True, False):
        model, batch = Vectors(0.5), batch_of()
        with tf.GradientTape() as tape:
            sums = asked(ContrastiveConfig(loss=loss, learn_temp=learn), batch, model)
        gradient = tape.gradient(sums.loss, model.temperature)
        moves = gradient is not None and abs(float(gradient)) > 1e-3
        assert moves == (learn and loss in ("contrastive", "symmetric"))


def test_the_scale_stops_at_its_limit_and_can_come_back() -> None:
    for value, scale in ((1.0, np.e), (9.0, LARGEST_SCALE)):
        temperature = tf.Variable(value)
        with tf.GradientTape() as tape:
            found = scale_of(temperature)
        np.testing.assert_allclose(found, scale, rtol=1e-6)
        np.testing.assert_allclose(tape.gradient(found, temperature), scale, rtol=1e-6)


def test_equal_vectors_win_nothing() -> None:
    batch = batch_of() | {"x": tf.ones((ROWS, WIDTH)), "y": tf.ones((ROWS, WIDTH))}
    found = means(asked(ContrastiveConfig(), batch))
    assert found["recall@1"] == found["recall@5"] == 0.0
    np.testing.assert_allclose(found["mrr"], 2 / (ROWS + 1), rtol=1e-6)


def small_spec(**given: Any) -> ModelSpec:
    sizes = {
        "d_model": 16,
        "d_ff": 32,
        "num_heads": 2,
        "num_layers": 1,
        "rpr_k": [2],
        "reduction_d_k": 8,
        "d_out": 8,
        **given,
    }
    return ModelSpec(ModelConfig(**sizes), 40, 8, kind="dual", seq_length_y=6)


@pytest.mark.parametrize(
    "reduction",
    [
        "2ha",
        "2ha_mean",
        "2ha_max",
        "sha",
        "sha_mean",
        "sha_max",
        "cls",
        "mean",
        "max",
        "sqrt_length",
    ],
)
def test_padding_does_not_change_a_text_under_any_reduction_but_meads(reduction: str) -> None:
    text = np.random.default_rng(0).integers(5, 40, (3, 4))
    for compat in ("none", "mead"):
        model = build_model(small_spec(reduction_type=reduction, compat=compat), seed=1)
        short, long = (
            model.encode_query(tf.constant(np.pad(text, ((0, 0), (0, pad))), tf.int32))
            for pad in (0, 4)
        )
        assert short.shape == (3, 8) and np.isfinite(short).all()
        same = np.allclose(short, long, atol=1e-5)
        # MEAD counts what its heads say at padding.
        counted = compat == "mead" and reduction.startswith(("2ha", "sha"))
        assert same != counted


def test_records_without_pairs_are_refused() -> None:
    with pytest.raises(UsageError, match="--pairs"):
        DualEncoding.configure_model(small_spec(), ObjectiveOptions(), {"x": 8})
    assert (
        DualEncoding.configure_model(
            small_spec(), ObjectiveOptions(), {"x": 8, "y": 5}
        ).seq_length_y
        == 5
    )


def test_a_scale_that_rises_over_no_example_is_refused() -> None:
    with pytest.raises(UsageError, match="scale_examples 0: must be at least 1"):
        DualEncoding.configure_model(
            small_spec(),
            ObjectiveOptions(contrastive=ContrastiveConfig(scale_examples=0)),
            {"x": 8, "y": 5},
        )


def test_gated_blocks_take_texts_of_one_length() -> None:
    with pytest.raises(
        UsageError, match="--mlp: .*8 and 6 tokens; preprocess with --seq_length_y 8"
    ):
        build_model(small_spec(mlp=True))
    build_model(replace(small_spec(mlp=True), seq_length_y=8))


def test_the_model_begins_with_the_temperature_that_is_asked_for() -> None:
    assert float(build_model(small_spec(init_temp=2.5), seed=3).temperature) == 2.5


def test_arithmetic_counts_both_sides() -> None:
    objective, spec = DualEncoding(ContrastiveConfig()), small_spec(rpr_k=[0])
    sides = 0
    for t in (8, 6):
        block = 4 * 16 * 16 + 2 * t * 16 + 2 * 16 * 32
        reduction = 2 * (2 * 16 * 8 + t * (8 + 16))
        sides += t * (block + reduction) + 32 * 8
    assert objective.flops(spec) == 3 * 2 * sides and objective.tokens(spec) == 14
