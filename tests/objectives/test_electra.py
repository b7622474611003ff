"""ELECTRA: what is drawn, what is asked, what flows where, and that two means stay two means."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tpu_tlm.config import ElectraConfig, MlmConfig, ModelConfig, OptimConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives import electra
from tpu_tlm.objectives.base import ObjectiveOptions
from tpu_tlm.objectives.electra import ReplacedTokenDetection, generator_of, sample
from tpu_tlm.objectives.mlm import Specials
from tpu_tlm.training.optimizers import make_optimizer
from tpu_tlm.training.step import TrainStep

ROWS, LENGTH, VOCAB = 8, 16, 50
SPECIALS = Specials(VOCAB, 0, 4, (0, 1, 2, 3, 4))
CONFIG = ModelConfig(
    d_model=32, d_ff=64, num_heads=4, num_layers=1, rpr_k=[3], dropout=0.1, weight_std=0.3
)


def make_batch(*, padded=True):
    x = np.random.default_rng(0).integers(5, VOCAB, (ROWS, LENGTH)).astype(np.int32)
    x[:, 0] = 2
    if padded:
        x[0, 10:], x[1, 5:] = 0, 0
    return {
        "x": tf.constant(x),
        "w": tf.fill((ROWS, 2), tf.constant(255, tf.uint8)),
        "position": tf.range(ROWS, dtype=tf.int64),
    }


def make_spec(config=CONFIG):
    return ModelSpec(
        config,
        VOCAB,
        LENGTH,
        kind="electra",
        generator=generator_of(config, ElectraConfig(gen_fraction=0.5)),
    )


def make_step(grad_accum=1, **changes):
    objective = ReplacedTokenDetection(MlmConfig(), SPECIALS, 50.0)
    model = build_model(make_spec(ModelConfig(**{**vars(CONFIG), **changes})), seed=1)
    return TrainStep(
        model,
        objective,
        make_optimizer(OptimConfig()),
        lambda i: tf.constant(1e-3),
        0.0,
        0,
        grad_accum,
    )


def run(step, batch):
    values = [tf.convert_to_tensor(v) for v in named_variables(step.model).values()]
    return tf.function(step, autograph=False)(
        values, step.optimizer.init_slots(values), batch, tf.constant(0, tf.int64)
    )


def test_draws_have_the_probabilities_of_the_softmax():
    """Of logits 0, 1, 2 the last is drawn in 66.5 % (a softmax of exponentials, as MEAD has it, would say 98.9 %)."""
    logits = tf.tile(tf.constant([[[9.0, 0.0, 1.0, 2.0, -1e9]]]), (64, 512, 1))
    drawn = sample(logits, Specials(5, 0, 0, (0,)), Key.of(3, tf.range(64, dtype=tf.int64))).numpy()
    shares = np.bincount(drawn.ravel(), minlength=5) / drawn.size
    expected = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    # Five standard deviations of a share among 32,768 draws are below 0.014.
    np.testing.assert_allclose(shares[1:4], expected, atol=0.014)
    assert shares[0] == shares[4] == 0


def test_gumbel_noise_is_finite_and_has_the_right_mean_and_tail():
    noise = Key.of(0, tf.range(256, dtype=tf.int64)).gumbel(8192).numpy()
    assert np.isfinite(noise).all()
    assert noise.mean() == pytest.approx(0.5772, abs=0.005) and noise.std() == pytest.approx(
        1.2825, abs=0.005
    )
    # P(noise > g) = 1 - exp(-exp(-g)): 2,097,152 draws have about 35 above 11.
    assert 10 < (noise > 11).sum() < 80


def test_gumbel_noise_of_the_extreme_bits_is_finite(monkeypatch):
    extremes = tf.constant([[0, 1, 2**31, 2**32 - 2**8, 2**32 - 1]], tf.uint32)
    monkeypatch.setattr(Key, "bits", lambda self, *shape: extremes)
    noise = Key.of(0, tf.range(1, dtype=tf.int64)).gumbel(5).numpy()[0]
    assert np.isfinite(noise).all() and (np.diff(noise) <= 0).all()
    np.testing.assert_allclose(
        noise[:3], [-np.log(-np.log1p(-v)) for v in (2.0**-33, 1.5 * 2.0**-32, 0.5)], rtol=1e-5
    )


class Caught:
    """In place of a model: remembers what the discriminator saw, and says what it is told to say."""

    def __init__(self, scores):
        self.scores, self.seen = scores, {}

    def generate(self, features, positions, key=None):
        self.seen["masked"], self.seen["positions"] = features["x"].numpy(), positions
        return tf.zeros((*positions.shape, 128))

    def __call__(self, features, key=None):
        self.seen["text"] = features["x"].numpy()
        return tf.constant(self.scores, tf.float32)


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_right_guess_is_no_replacement_and_padding_is_out(monkeypatch, wrong):
    """The numbers by hand: a generator that guesses all right, or all wrong."""
    batch = make_batch()
    x = batch["x"].numpy()

    def guess(logits, specials, key):
        labels = np.take_along_axis(x, model.seen["positions"].numpy(), 1)
        return tf.constant(np.where(wrong, 5 + (labels - 4) % (VOCAB - 5), labels), tf.int32)

    monkeypatch.setattr(electra, "sample", guess)
    scores = np.random.default_rng(1).standard_normal((ROWS, LENGTH))
    model = Caught(scores)
    sums = ReplacedTokenDetection(MlmConfig(), SPECIALS, 50.0)(
        model, batch, Key.of(0, batch["position"]), training=True
    )
    replaced = model.seen["text"] != x
    assert (model.seen["masked"] == SPECIALS.mask_id).any() and not (
        model.seen["text"] == SPECIALS.mask_id
    ).any()
    np.testing.assert_array_equal(
        model.seen["text"][x < 5], x[x < 5]
    )  # padding and special tokens stay
    tokens = x != 0
    masked = sum(max(1, round(0.15 * (row > 4).sum())) for row in x)
    assert replaced.sum() == (masked if wrong else 0)
    losses = np.log1p(np.exp(-np.abs(scores))) + np.maximum(scores, 0) - scores * replaced
    np.testing.assert_allclose(sums.loss["discriminator"], 50 * losses[tokens].sum(), rtol=1e-5)
    np.testing.assert_allclose(sums.loss["generator"], masked * np.log(128), rtol=1e-5)
    assert (float(sums.weight["generator"]), float(sums.weight["discriminator"])) == (
        masked,
        tokens.sum(),
    )
    called = (scores > 0) & tokens
    hits = (called & replaced).sum()
    expected = {
        "discriminator_accuracy": (((scores > 0) == replaced)[tokens].sum(), tokens.sum()),
        "precision": (hits, called.sum()),
        "recall": (hits, replaced.sum()),
        "replaced": (replaced.sum(), tokens.sum()),
    }
    for name, pair in expected.items():
        np.testing.assert_allclose(
            [float(v) for v in sums.metrics[name]], pair, rtol=1e-6, err_msg=name
        )


def test_what_flows_where():
    """Each loss into its own model, both into the shared embeddings, nothing through the draw."""
    step, batch = make_step(), make_batch()
    variables = named_variables(step.model)
    values = [tf.convert_to_tensor(v) for v in variables.values()]
    grads, _ = step.gradients(values, batch)
    by_path = dict(zip(variables, grads, strict=True))
    for path, parts in by_path.items():
        shared = path.startswith("embeddings/")
        expected = (
            {"generator", "discriminator"}
            if shared
            else {"generator" if path.startswith("generator/") else "discriminator"}
        )
        assert set(parts) == expected, path
        assert all(float(tf.reduce_sum(tf.abs(g))) > 0 for g in parts.values()) or path.endswith(
            "bias"
        ), path
    assert any(path.startswith("generator/projection") for path in by_path)


def test_two_means_whatever_the_micro_batches():
    """Rows have different numbers of tokens: a mean of means would differ."""
    whole, parts = run(make_step(), make_batch()), run(make_step(4), make_batch())
    for name in ("generator", "discriminator"):
        np.testing.assert_allclose(whole.sums.loss[name], parts.sums.loss[name], rtol=1e-5)
        assert whole.sums.weight[name] == parts.sums.weight[name]
    np.testing.assert_allclose(whole.norm, parts.norm, rtol=1e-4)
    for a, b in zip(whole.slots, parts.slots, strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=1e-5)


def test_the_gradient_is_that_of_the_sum_of_the_means():
    step, batch = make_step(dropout=0.0), make_batch()
    values = [tf.convert_to_tensor(v) for v in named_variables(step.model).values()]
    with tf.GradientTape() as tape:
        tape.watch(values)
        sums = step.sums(values, batch, training=True)
        mean = tf.add_n([sums.loss[p] / sums.weight[p] for p in sums.loss])
    expected = tf.linalg.global_norm([tf.convert_to_tensor(g) for g in tape.gradient(mean, values)])
    np.testing.assert_allclose(run(step, batch).norm, expected, rtol=1e-5)


def test_evaluation_does_not_depend_on_the_seed():
    objective, model, batch = (
        ReplacedTokenDetection(MlmConfig(), SPECIALS, 50.0),
        build_model(make_spec(), seed=1),
        make_batch(),
    )
    first, second = (
        objective(model, batch, Key.of(seed, batch["position"]), training=False) for seed in (0, 1)
    )
    assert (
        first.loss["discriminator"] == second.loss["discriminator"]
        and first.loss["generator"] == second.loss["generator"]
    )
    trained = objective(model, batch, Key.of(1, batch["position"]), training=True)
    assert trained.loss["generator"] != first.loss["generator"]


def test_records_with_masks_are_taken_as_they_are():
    batch = make_batch(padded=False)
    x = batch["x"].numpy()
    y = np.zeros_like(x)
    y[:, 3], y[:, 7] = x[:, 3], x[:, 7]
    model = Caught(np.zeros(x.shape))
    given = {
        "x": tf.constant(np.where(y > 0, SPECIALS.mask_id, x)),
        "y": tf.constant(y),
        "position": batch["position"],
    }
    sums = ReplacedTokenDetection(MlmConfig(), SPECIALS, 50.0)(
        model, given, Key.of(0, batch["position"]), training=True
    )
    assert (
        sums.weight["generator"] == 2 * ROWS and not (model.seen["text"] == SPECIALS.mask_id).any()
    )
    np.testing.assert_array_equal(model.seen["text"][y == 0], x[y == 0])


def test_the_size_of_the_generator():
    base = ModelConfig()
    small = generator_of(base, ElectraConfig())
    assert (small.d_model, small.d_ff, small.num_heads, small.num_layers, small.embedding_size) == (
        128,
        512,
        2,
        8,
        512,
    )
    given = generator_of(
        base, ElectraConfig(gen_d_model=96, gen_d_ff=100, gen_num_heads=3, gen_num_layers=2)
    )
    assert (given.d_model, given.d_ff, given.num_heads, given.num_layers) == (96, 100, 3, 2)
    assert generator_of(ModelConfig(embedding_size=64), ElectraConfig()).embedding_size == 64
    with pytest.raises(UsageError, match="gen_fraction 0"):
        generator_of(base, ElectraConfig(gen_fraction=0.0))
    spec = make_spec()
    assert ModelSpec.from_json(spec.to_json(), "here") == spec


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gen_d_model": 0}, "gen_d_model 0: must be at least 1"),
        ({"gen_d_ff": -1}, "gen_d_ff -1: must be at least 1"),
        ({"gen_num_heads": 0}, "gen_num_heads 0: must be at least 1"),
        ({"gen_num_layers": 0}, "gen_num_layers 0: must be at least 1"),
        ({"disc_weight": -1.0}, "disc_weight -1.0: must be at least 0"),
    ],
)
def test_options_that_cannot_be(options, says):
    with pytest.raises(UsageError, match=says):
        ReplacedTokenDetection.configure_model(
            make_spec(), ObjectiveOptions(electra=ElectraConfig(**options)), {"x": LENGTH}
        )


def test_arithmetic_is_counted_for_both():
    spec = make_spec()
    objective = ReplacedTokenDetection(MlmConfig(), SPECIALS, 50.0)
    model = build_model(spec)
    matrices = [
        v
        for p, v in named_variables(model).items()
        if p.endswith("kernel") and "head/unit" not in p
    ]
    table = VOCAB * 32 * objective.predictions(LENGTH) / LENGTH
    least = 6 * LENGTH * (sum(np.prod(v.shape) for v in matrices) + table)
    assert least < objective.flops(spec) < 2.5 * least
