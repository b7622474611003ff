from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tpu_tlm.config import OptimConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.training import optimizers
from tpu_tlm.training.optimizers.base import one_minus_power

SHAPES = [(7, 5), (5,), (2, 3, 4), (4, 3, 2, 5)]
STEPS = 20


def _arrays(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]


def _ours(
    optimizer: optimizers.Optimizer,
    *,
    lr: float,
    decay_mask: list[bool],
    steps: int = STEPS,
    jit: bool = False,
) -> list[np.ndarray]:
    @tf.function(jit_compile=jit)
    def update(values, grads, slots, step):
        return optimizer.apply(
            values, grads, slots, lr=tf.constant(lr), step=step, decay_mask=decay_mask
        )

    values = [tf.constant(a) for a in _arrays(0)]
    slots = optimizer.init_slots(values)
    for step in range(steps):
        values, slots = update(
            values, [tf.constant(a) for a in _arrays(step + 1)], slots, tf.constant(step)
        )
    return [v.numpy() for v in values]


def _keras(
    optimizer: keras.optimizers.Optimizer, *, no_decay: tuple[int, ...] = ()
) -> list[np.ndarray]:
    variables = [keras.Variable(a, name=f"v{i}") for i, a in enumerate(_arrays(0))]
    if no_decay:
        optimizer.exclude_from_weight_decay(var_list=[variables[i] for i in no_decay])
    for step in range(STEPS):
        optimizer.apply([tf.constant(a) for a in _arrays(step + 1)], variables)
    return [v.numpy() for v in variables]


CASES = {
    "adam": (
        lambda wd: optimizers.Adam(0.9, 0.98, 1e-6, wd),
        lambda wd: keras.optimizers.AdamW(0.02, wd, beta_1=0.9, beta_2=0.98, epsilon=1e-6),
    ),
    "lamb": (
        lambda wd: optimizers.Lamb(0.9, 0.999, 1e-6, wd),
        lambda wd: keras.optimizers.Lamb(
            0.02, beta_1=0.9, beta_2=0.999, epsilon=1e-6, weight_decay=wd
        ),
    ),
    "adafactor": (
        lambda wd: optimizers.Adafactor(wd),
        lambda wd: keras.optimizers.Adafactor(0.02, weight_decay=wd),
    ),
    "sgd": (
        lambda wd: optimizers.Sgd(0.9, wd),
        lambda wd: keras.optimizers.SGD(0.02, momentum=0.9, weight_decay=wd),
    ),
    "sgd without momentum": (
        lambda wd: optimizers.Sgd(0.0, wd),
        lambda wd: keras.optimizers.SGD(0.02, momentum=0.0, weight_decay=wd),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_keras_numbers(name: str) -> None:
    ours, theirs = CASES[name]
    for mine, other in zip(
        _ours(ours(0.1), lr=0.02, decay_mask=[True] * 4), _keras(theirs(0.1)), strict=True
    ):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-6)
    assert any(
        np.abs(a - b).max() > 1e-2
        for a, b in zip(_keras(theirs(0.1)), _keras(theirs(0.4)), strict=True)
    ), "the decay is in play"


def test_decay_leaves_alone_what_the_mask_leaves_out() -> None:
    mask = [True, False, True, False]
    keras_adamw = keras.optimizers.AdamW(0.02, 0.5, beta_1=0.9, beta_2=0.98, epsilon=1e-6)
    for mine, other in zip(
        _ours(optimizers.Adam(0.9, 0.98, 1e-6, 0.5), lr=0.02, decay_mask=mask),
        _keras(keras_adamw, no_decay=(1, 3)),
        strict=True,
    ):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-6)


def test_lamb_does_not_scale_norms_and_biases() -> None:
    mask = [True, False, True, False]
    mixed = _ours(optimizers.Lamb(0.9, 0.98, 0.0), lr=0.02, decay_mask=mask)
    scaled = _keras(keras.optimizers.Lamb(0.02, beta_1=0.9, beta_2=0.98, epsilon=0.0))
    plain = _keras(keras.optimizers.Adam(0.02, beta_1=0.9, beta_2=0.98, epsilon=0.0))
    for i, weight in enumerate(mask):
        np.testing.assert_allclose(mixed[i], (scaled if weight else plain)[i], rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "lamb", "adafactor"])
def test_compiles_with_xla_to_the_same_numbers(name: str) -> None:
    make = CASES[name][0]
    plain = _ours(make(0.1), lr=0.02, decay_mask=[True] * 4, steps=3)
    compiled = _ours(make(0.1), lr=0.02, decay_mask=[True] * 4, steps=3, jit=True)
    for a, b in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_first_update_of_adam_is_the_sign_of_the_gradient_to_full_precision() -> None:
    """With eps 0, m/(sqrt v) corrected is exactly the sign; 1 - 0.999**1 taken naively in float32 is off in the fifth digit."""
    optimizer = optimizers.Adam(0.9, 0.999, 0.0)
    value, grad = tf.zeros(64), tf.constant(np.random.default_rng(0).normal(size=64), tf.float32)
    new, _ = optimizer.apply(
        [value],
        [grad],
        optimizer.init_slots([value]),
        lr=tf.constant(1.0),
        step=tf.constant(0),
        decay_mask=[False],
    )
    np.testing.assert_allclose(new[0], -np.sign(grad), rtol=5e-7)


def test_late_beta_powers() -> None:
    for base in (0.9, 0.98, 0.999):
        for count in (1, 10, 1000, 1_000_000):
            want = 1.0 - np.float64(base) ** count
            np.testing.assert_allclose(
                one_minus_power(base, tf.constant(float(count))), want, rtol=3e-7
            )


def test_adafactor_keeps_vectors_instead_of_matrices() -> None:
    optimizer = optimizers.Adafactor()
    assert optimizer.slots_of((300, 20)) == {"row": (300,), "column": (20,)}
    assert optimizer.slots_of((8, 300, 20)) == {"row": (8, 300), "column": (8, 20)}
    assert optimizer.slots_of((20,)) == {"v": (20,)}
    [slots] = optimizer.init_slots([tf.zeros((300, 20))])
    assert [s.shape.as_list() for s in slots] == [[300], [20]] and optimizer.slot_names(
        (300, 20)
    ) == ("row", "column")


def test_apply_refuses_lists_that_do_not_match() -> None:
    optimizer = optimizers.Sgd(0.0)
    with pytest.raises(ValueError):
        optimizer.apply(
            [tf.zeros(2)], [], [()], lr=tf.constant(1.0), step=tf.constant(0), decay_mask=[True]
        )


@pytest.mark.parametrize(
    ("path", "shape", "want"),
    [
        ("encoder/block_0/ffn/kernel", (4, 8), True),
        ("embeddings/table:0", (100, 8), True),
        ("encoder/block_0/attention/rpr_key", (17, 8), True),
        ("encoder/ln/gamma", (8,), False),
        ("encoder/block_0/ffn/bias", (8,), False),
        ("encoder/attention/qkv/bias", (3, 2, 4), False),
        ("head/output_bias", (1, 100), False),
        ("stacked/ln1/gamma:0", (12, 8), False),
        ("stacked/ln1/beta", (12, 8), False),
        ("temperature", (), False),
    ],
)
def test_what_decays(path: str, shape: tuple[int, ...], want: bool) -> None:
    assert optimizers.decays(path, shape) is want


def test_clipping_is_by_the_norm_over_all() -> None:
    grads = [tf.constant([3.0, 0.0]), tf.constant([[0.0], [4.0]])]
    clipped, norm = optimizers.clip_by_global_norm(grads, 1.0)
    assert norm.dtype == tf.float32 and float(norm) == 5.0
    np.testing.assert_allclose(clipped[0], [0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(clipped[1], [[0.0], [0.8]], rtol=1e-6)
    for clip in (5.0, 10.0, 0.0):
        untouched, norm = optimizers.clip_by_global_norm(grads, clip)
        assert float(norm) == 5.0 and all(
            np.array_equal(a, b) for a, b in zip(untouched, grads, strict=True)
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_norm_that_is_not_finite_is_seen_by_the_caller(bad: float) -> None:
    grads = [tf.constant([1.0, bad], tf.float32), tf.constant([2.0])]
    clipped, norm = optimizers.clip_by_global_norm(grads, 1.0)
    assert not np.isfinite(norm)
    assert np.array_equal(clipped[1], [2.0]), "nothing is made to look healthy or turned to zero"


def test_the_options_make_the_optimizer() -> None:
    made = optimizers.make_optimizer(
        OptimConfig(optimizer="adamw", beta1=0.8, beta2=0.9, eps=1e-4, weight_decay=0.3)
    )
    assert isinstance(made, optimizers.AdamW) and (
        made.beta1,
        made.beta2,
        made.eps,
        made.weight_decay,
    ) == (0.8, 0.9, 1e-4, 0.3)
    assert optimizers.make_optimizer(OptimConfig(optimizer="adam")).weight_decay == 0.0
    kinds = {"lamb": optimizers.Lamb, "adafactor": optimizers.Adafactor, "sgd": optimizers.Sgd}
    for name, kind in kinds.items():
        made = optimizers.make_optimizer(OptimConfig(optimizer=name, weight_decay=0.3))
        assert isinstance(made, kind) and made.weight_decay == 0.3
    bad = {"beta1": 1.0, "beta2": -0.1, "weight_decay": -1.0, "eps": float("nan")}
    for name, value in bad.items():
        with pytest.raises(UsageError, match=name):
            OptimConfig(**{name: value})
