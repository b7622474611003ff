"""Our step is timed whole, or without the parts that are named."""

from __future__ import annotations

import pytest

from benchmarks import our_step, products_step
from benchmarks.workloads import WORKLOADS, Workload
from tpu_tlm.objectives import mlm

TINY = Workload(50, 16, 1, 2, 32, rows=4, tokens=8, predictions=2, steps_per_call=2)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(WORKLOADS, "tiny", TINY)
    monkeypatch.setattr(mlm, "cross_entropy", mlm.cross_entropy)  # given back after the test


@pytest.fixture
def losses(monkeypatch):
    """The metrics of every report of the loop."""
    found = []
    loops = our_step.Loop

    class Kept(loops):
        def __init__(self, step, state):
            super().__init__(step, state)
            found.append((step, state))

    monkeypatch.setattr(our_step, "Loop", Kept)
    return found


def test_each_part_can_be_left_out(losses):
    for part in our_step.PARTS:
        assert our_step.build("tiny", 0, [part])(1) > 0
    (clipping, _), (dropout, _), (masks, _), _ = losses
    assert clipping.clip == 0 and dropout.clip > 0
    assert dropout.model.config.dropout == 0 and masks.model.config.dropout > 0
    assert type(masks.objective) is not type(dropout.objective)


def test_nothing_is_left_out_otherwise(losses):
    assert our_step.build("tiny")(1) > 0
    ((step, _),) = losses
    assert step.clip > 0 and step.model.config.dropout == TINY.dropout
    assert type(step.objective) is mlm.MaskedLanguageModeling


def test_the_products_alone():
    assert products_step.build("tiny")(1) > 0
