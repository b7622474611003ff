"""Our step is timed whole, or without the parts that are named."""

from __future__ import annotations

import pytest
import tensorflow as tf

from benchmarks import our_step, products_step
from benchmarks.workloads import PARTS, WORKLOADS, Workload
from tpu_tlm.objectives import mlm

TINY = Workload(50, 16, 1, 2, 32, rows=4, tokens=8, predictions=2, steps_per_call=2)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(WORKLOADS, "tiny", TINY)
    monkeypatch.setattr(mlm, "cross_entropy", mlm.cross_entropy)  # given back after the test


@pytest.fixture
def built(monkeypatch):
    """The step of every loop that is built, and whether XLA compiles it."""
    found = []
    loops = our_step.Loop

    class Kept(loops):
        def __init__(self, step, state, *, xla):
            super().__init__(step, state, xla=xla)
            found.append((step, xla))

    monkeypatch.setattr(our_step, "Loop", Kept)
    return found


def test_parts_can_be_left_out(built):
    assert our_step.build("tiny")(1) > 0
    assert our_step.build("tiny", 0, PARTS)(1) > 0
    (whole, _), (rest, _) = built
    assert whole.clip > 0 and rest.clip == 0
    assert whole.model.config.dropout == TINY.dropout and rest.model.config.dropout == 0
    assert type(whole.objective) is mlm.MaskedLanguageModeling
    assert type(rest.objective) is not mlm.MaskedLanguageModeling
    _, right = mlm.cross_entropy(tf.constant([1]), tf.constant([[0.0, 1.0]]))
    assert float(right[0]) == 0


def test_precision_and_compiler_are_those_that_were_asked_for(built):
    assert our_step.build("tiny", precision="bfloat16", xla=False)(1) > 0
    ((step, xla),) = built
    assert xla is False and step.model.compute_dtype == "bfloat16"


def test_the_products_alone():
    assert products_step.build("tiny")(1) > 0
