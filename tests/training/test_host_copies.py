"""Copies of tensors in memory that is used again: values, addresses, what a run's saves hold."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.toy_runs import fit, options_of
from tpu_tlm.training import Callback
from tpu_tlm.training.host_copies import HostCopies

SHAPES = [(100, 30), (), (7,), (1000, 100)]


def address(tensor):
    return np.asarray(tensor).__array_interface__["data"][0]


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3,), (5, 7), (0, 3), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.bfloat16, tf.int64, tf.bool, tf.int8])
def test_values_types_and_shapes(shape, dtype):
    given = tf.cast(tf.random.stateless_uniform(shape, (1, 2), -9, 9), dtype)
    copy = HostCopies().make({"before": tf.ones(3, tf.int8), "x": given})["x"]
    assert copy.dtype == dtype and copy.shape == given.shape
    np.testing.assert_array_equal(copy.numpy(), given.numpy())


def test_a_copy_stays_as_it_is_while_the_variable_is_assigned():
    variables = {
        str(n): tf.Variable(np.full(shape, n, np.float32)) for n, shape in enumerate(SHAPES)
    }
    copies = HostCopies().make({n: v.read_value() for n, v in variables.items()})
    for name, variable in variables.items():
        assert not np.shares_memory(np.asarray(copies[name]), np.asarray(variable.read_value()))
        variable.assign_add(tf.ones_like(variable))
    for name, copy in copies.items():
        np.testing.assert_array_equal(np.asarray(copy), float(name))


def test_memory_is_used_again_when_no_copy_is_left():
    maker, tensors = HostCopies(), {str(n): tf.ones(s) for n, s in enumerate(SHAPES)}
    first = maker.make(tensors)
    addresses = {n: address(t) for n, t in first.items()}
    assert all(a % 64 == 0 for a in addresses.values())  # TensorFlow copies from other addresses
    del first
    second = maker.make({n: 2 * t for n, t in tensors.items()})
    assert {n: address(t) for n, t in second.items()} == addresses


@pytest.mark.parametrize("view", [lambda t: t, np.asarray, lambda t: np.asarray(t)[:5]])
def test_memory_that_is_referred_to_is_not_used_again(view):
    maker, tensors = HostCopies(), {"a": tf.ones((100, 30)), "b": tf.ones(7)}
    held = view(maker.make(tensors)["a"])
    for value in (2.0, 3.0):
        copies = maker.make({n: value * tf.ones_like(t) for n, t in tensors.items()})
        assert (np.asarray(held) == 1).all() and (np.asarray(copies["a"]) == value).all()
        del copies


def test_memory_lasts_as_long_as_a_copy():
    copies = HostCopies().make({"a": tf.ones((1000, 100))})
    others = [np.zeros((1000, 100), np.float32) for _ in range(20)]
    assert (np.asarray(copies["a"]) == 1).all() and len(others) == 20


class Addresses(Callback):
    """Where the saved values of each step are; `held` keeps those of a step."""

    background = True

    def __init__(self, hold):
        self.found, self.hold, self.held = {}, hold, None

    def on_save(self, report):
        self.found[report.step] = {n: address(t) for n, t in report.tensors.items()}
        if report.step == self.hold:
            self.held = (dict(report.tensors), {n: t.numpy() for n, t in report.tensors.items()})


@pytest.mark.parametrize("hold", [0, 4])
def test_saves_of_a_run_use_the_same_memory_unless_it_is_referred_to(toy_corpus, tmp_path, hold):
    watch = Addresses(hold)
    flags = ("--steps", 9, "--save_steps", 2, "--steps_per_call", 1)
    fit(options_of(toy_corpus, tmp_path / "run", *flags), [watch])
    # The last save is not beside steps, and copies nothing.
    assert list(watch.found) == [2, 4, 6, 8, 9]
    assert watch.found[2] == watch.found[4]
    assert (watch.found[6] == watch.found[4]) == (not hold)
    assert watch.found[6] == watch.found[8]
    for name, tensor in (watch.held or ({}, {}))[0].items():
        np.testing.assert_array_equal(np.asarray(tensor), watch.held[1][name])
