"""Loops are traced without collections of garbage."""

from __future__ import annotations

import gc

import pytest

from tpu_tlm.training.loop import _traced_at_once


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
                _traced_at_once(function)(1, 2)
        else:
            assert _traced_at_once(function)(1, 2) == 3
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
