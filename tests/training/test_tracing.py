"""Loops are traced without collections of garbage."""

from __future__ import annotations

import gc

import pytest

from tests.toy_runs import fit, options_of
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
