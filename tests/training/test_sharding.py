"""Optimizer state divided among replicas: shares, their sum, and what a run with them computes."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests import preloaded
from tests.paths import ROOT
from tests.toy import BARE, SIZES, toy_dataset
from tpu_tlm.checkpoints.manager import Checkpoints
from tpu_tlm.objectives.replicas import Replicas
from tpu_tlm.training.optimizers.sharding import Sharding

# The first is divided evenly, the second with padding, the third along its second axis.
SHAPES = [(64, 256), (9, 33, 128), (2, 30_522), (30_522,)]


@pytest.mark.parametrize("count", [2, 3, 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_shares_of_all_replicas_are_the_value(shape, count):
    sharding = Sharding(count)
    value = tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)
    shares = [sharding.own(value, replica) for replica in range(count)]
    assert {tuple(s.shape) for s in shares} == {sharding.share(shape)}
    axis = sharding.axis(shape)
    assert axis is not None and math.prod(sharding.share(shape)) < math.prod(shape)
    tables: list[tf.Tensor] = []

    def collect(given: list[tf.Tensor]) -> list[tf.Tensor]:
        tables.extend(given)
        return given

    for replica, share in enumerate(shares):
        sharding.whole([share], [shape], Replicas(count, replica, collect))
    (found,) = sharding.whole(
        [shares[0]], [shape], Replicas(count, 0, lambda _: [tf.add_n(tables)])
    )
    np.testing.assert_array_equal(found, value)
    np.testing.assert_array_equal(sharding.joined(tf.stack(shares, axis), shape), value)


def test_padding_that_is_not_finite_reaches_no_value():
    """With --eps 0 the padding's update is 0 / 0."""
    sharding, shape = Sharding(2), (33, 128)
    last = tf.concat([tf.ones((16, 128)), tf.fill((1, 128), math.nan)], 0)
    (found,) = sharding.whole([last], [shape], Replicas(2, 1, lambda tables: tables))
    np.testing.assert_array_equal(found, np.repeat([[0.0], [1.0]], [17, 16], 0) * np.ones(128))


@pytest.mark.parametrize(("shape", "count"), [((768,), 16), ((4, 16), 2), ((), 4), ((64, 256), 1)])
def test_small_values_and_a_single_replica_are_not_divided(shape, count):
    assert Sharding(count).axis(shape) is None and Sharding(count).share(shape) == shape


def test_an_axis_that_needs_no_padding_of_tiles_is_taken():
    # 48 of 768 columns would be stored as 128.
    assert Sharding(16).share((30_522, 768)) == (1_908, 768)
    assert Sharding(4).share((768, 3072)) == (192, 3072)


def _train(base: Path, data: Path, name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tpu_tlm.train", "--train_dir", data, "--run_dir", base / name]
    command += [*SIZES, "--batch_size", "8", "--save_steps", "3", "--keep", "9", "--clip", "0.05"]
    command += ["--dropout", "0.2", "--lr_schedule", "constant", "--warmup_steps", "2", *BARE]
    done = preloaded.run(
        [*map(str, command), *flags], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def _arrays(run: Path, step: int) -> dict[str, np.ndarray]:
    return dict(Checkpoints(str(run / "checkpoints")).at(step).load())


def _same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert list(one) == list(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_mirrored_replicas_have_the_bits_of_a_run_without_sharding(tmp_path):
    data = toy_dataset(tmp_path / "data")
    mirror = ("--distribute", "mirror", "--logical_cpus", "2")
    sharded = (*mirror, "--shard_optimizer", "true")
    _train(tmp_path, data, "plain", *mirror, "--steps", "6")
    done = _train(tmp_path, data, "sharded", *sharded, "--steps", "3")
    assert "optimizer state divided among 2 replicas" in done.stdout
    _train(tmp_path, data, "sharded", *sharded, "--steps", "6")
    for step in (3, 6):
        _same(_arrays(tmp_path / "plain", step), _arrays(tmp_path / "sharded", step))
    # One replica continues what two have saved.
    done = _train(tmp_path, data, "sharded", "--shard_optimizer", "true", "--steps", "7")
    assert "continuing at step 6" in done.stdout and "divided among" not in done.stdout
