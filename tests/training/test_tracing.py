"""Loops are traced without collections of garbage, and with each constant once."""

from __future__ import annotations

import dataclasses
import gc

import pytest
import tensorflow as tf

from tests.toy_runs import fit, one_device, options_of
from tpu_tlm.models.layers.shared import constant
from tpu_tlm.training import make_trainer
from tpu_tlm.training.loop import _without_collections
from tpu_tlm.training.step import TrainStep


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_collections_go_on_as_they_were(enabled, fails):
    def function(one, other):
        assert not gc.isenabled()
        if fails:
            raise ValueError("in the function")
        return one + other

    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        if fails:
            with pytest.raises(ValueError, match="in the function"):
                _without_collections(function)(1, 2)
        else:
            assert _without_collections(function)(1, 2) == 3
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_a_run_traces_its_step_without_collections(toy_corpus, tmp_path, monkeypatch):
    call, enabled = TrainStep.__call__, []

    def seen(step, *args, **options):
        enabled.append(gc.isenabled())
        return call(step, *args, **options)

    monkeypatch.setattr(TrainStep, "__call__", seen)
    fit(options_of(toy_corpus, tmp_path / "run", "--steps", 8))
    assert enabled and not any(enabled) and gc.isenabled()


@pytest.mark.parametrize("replicas", [False, True])
def test_the_step_of_one_device_shares_and_that_of_replicas_does_not(
    toy_corpus, tmp_path, monkeypatch, replicas
):
    # Sums are traced for steps and for evaluations.
    sums, same = TrainStep.sums, []

    def seen(step, *args, **options):
        same.append((options["training"], constant(7, tf.int32) is constant(7, tf.int32)))
        return sums(step, *args, **options)

    monkeypatch.setattr(TrainStep, "sums", seen)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"]) if replicas else None
    devices = dataclasses.replace(one_device(), strategy=strategy)
    flags = ("--steps", 8, "--valid_dir", toy_corpus.valid)
    options = options_of(toy_corpus, tmp_path / "run", *flags)
    make_trainer(options, devices, display=False).fit()
    assert set(same) == {(True, not replicas), (False, not replicas)}
