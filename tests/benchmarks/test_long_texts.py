"""The steps of long texts are timed with blocks and with all scores."""

from __future__ import annotations

import pytest

from benchmarks import long_texts
from tpu_tlm.models.layers import attention


@pytest.mark.parametrize("blocks", [True, False])
def test_a_step_with_blocks_or_with_all_scores(blocks, monkeypatch):
    used = []
    blocks_of = attention.blocks_of
    monkeypatch.setattr(attention, "blocks_of", lambda *given: used.append(1) or blocks_of(*given))
    assert long_texts.build(256, 2, 8, blocks)(1) > 0
    assert bool(used) is blocks
