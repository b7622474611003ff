"""Costs in a compiled program's text."""

from __future__ import annotations

import pytest

from tests.paths import DATA_FILES
from tpu_tlm.planning.chips import CHIPS, parse_slice
from tpu_tlm.planning.cycles import costs, simplified

TEXT = (DATA_FILES / "planning/step.hlo.txt").read_text()


def by_name(text: str = TEXT):
    found = costs(text)
    return {cost.name: cost for cost in (*found.estimated, *found.unknown)}


def test_what_runs_is_summed_and_what_is_fused_is_not_counted_twice():
    # A product, three rounds of the loop's addition, a transposition.
    assert costs(TEXT).cycles == 1000 + 3 * 10 + 200


def test_a_loop_counts_as_often_as_it_runs():
    assert by_name()["add.6"].times == 3
    longer = TEXT.replace("constant(4)", "constant(9)")
    assert costs(longer).cycles - costs(TEXT).cycles == 5 * 10


def test_the_compilers_own_count_of_rounds_comes_first():
    known = TEXT.replace(
        'metadata={op_name="while"}', 'backend_config={"known_trip_count":{"n":"7"}}'
    )
    assert by_name(known)["add.6"].times == 7


def test_a_loop_of_unknown_length_is_said():
    unknown = TEXT.replace("%compare.7 = pred[]{:T(512)} compare", "%and.7 = pred[]{:T(512)} and")
    found = costs(unknown)
    assert found.missing()["rounds of a loop"] == 1
    assert "rounds of a loop" not in costs(TEXT).missing()


def test_categories_look_into_fusions():
    found = by_name()
    expected = {
        "fusion.2": "matrix product",
        "fusion.4": "move",
        "add.6": "elementwise",
        "fusion.1": "gather",
        "fusion.3": "scatter",
    }
    assert {name: found[name].category for name in expected} == expected


def test_what_has_no_estimate_is_listed_but_bookkeeping_is_not():
    assert costs(TEXT).missing() == {"gather": 1, "sort": 1, "all-reduce": 1, "scatter": 1}


def test_an_estimate_that_failed_is_none():
    # libtpu 0.0.31 on the softmax of 8,192 keys.
    failed = TEXT.replace('"estimated_cycles":"1000"', f'"estimated_cycles":"{2**63 - 1}"')
    assert failed != TEXT and costs(failed).cycles == costs(TEXT).cycles - 1000
    assert costs(failed).missing() == {**costs(TEXT).missing(), "matrix product": 1}
    (cost,) = (c for c in costs(failed).unknown if c.category == "matrix product")
    assert cost.bytes > 0 and cost.cycles == 0


def test_the_least_bytes_of_what_has_no_estimate():
    found = by_name()
    assert found["fusion.1"].bytes == 4 * 128 * 4  # four rows read; the result stays in the core
    assert (
        found["fusion.3"].bytes == 3 * 4 * 128 * 4
    )  # four rows: read, written, and what is added to them
    assert costs(TEXT).reduced == 128 * 128 * 4 + 4 + 64 * 2


def test_a_fused_reduce_scatter_and_all_gather_send_half_of_the_whole():
    text = """
%all-reduce-scatter.1 (input: f32[64,128]) -> f32[4,128] {
  %input = f32[64,128]{1,0:T(8,128)} parameter(0)
  %all-reduce.1 = f32[64,128]{1,0:T(8,128)} all-reduce(%input), replica_groups={}, to_apply=%sum
  ROOT %dynamic-slice.1 = f32[4,128]{1,0:T(8,128)} dynamic-slice(%all-reduce.1, %c, %c)
}

%all-gather.1 (input.1: f32[4,128]) -> f32[64,128] {
  %input.1 = f32[4,128]{1,0:T(8,128)} parameter(0)
  %dynamic-update-slice.1 = f32[64,128]{1,0} dynamic-update-slice(%zeros, %input.1, %c, %c)
  ROOT %all-reduce.2 = f32[64,128]{1,0} all-reduce(%dynamic-update-slice.1), to_apply=%sum
}

ENTRY %main (p: f32[64,128]) -> f32[64,128] {
  %p = f32[64,128]{1,0:T(8,128)} parameter(0)
  %fusion.1 = f32[4,128]{1,0:T(8,128)} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %fusion.2 = f32[64,128]{1,0} fusion(%fusion.1), kind=kCustom, calls=%all-gather.1
}
"""
    assert costs(text).reduced == 64 * 128 * 4  # one of each is one all-reduce


def test_floors_in_seconds():
    chip, found = CHIPS["v5e"], costs(TEXT)
    moved = sum(cost.bytes for cost in found.unknown if cost.category != "all-reduce")
    assert found.floor(chip) == pytest.approx(moved / 819e9)
    assert parse_slice("v5e-8").reducing(found.reduced) == pytest.approx(
        2 * 7 / 8 * found.reduced / 200e9
    )
    assert parse_slice("v5e-1").reducing(found.reduced) == 0


def test_layers_of_one_kind_are_one_group():
    assert simplified("model_1/encoder_1/0_1/ffn_1/MatMul") == simplified(
        "model_1/encoder_1/11_1/ffn_1/MatMul"
    )
    assert simplified("model_1/encoder_1/0_1/ln1_1/Mean") != simplified(
        "model_1/encoder_1/0_1/ln2_1/Mean"
    )


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        costs("HloModule empty\n")
