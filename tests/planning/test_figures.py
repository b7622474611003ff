"""Arithmetic on what was compiled."""

from __future__ import annotations

import json

import pytest

from tpu_tlm.config import ModelConfig
from tpu_tlm.planning import report
from tpu_tlm.planning.chips import GIB, parse_slice
from tpu_tlm.planning.compiler import Compiled
from tpu_tlm.planning.figures import Figures, Program, program_of
from tpu_tlm.planning.search import SearchResult
from tpu_tlm.planning.subject import shallow


def program(layers: int) -> Program:
    """Ten of everything, and three more for every layer."""
    n = 10.0 + 3 * layers
    return Program(
        n,
        n,
        n,
        n,
        n,
        n,
        n,
        n,
        {"gather": n, "sort": 2.0} | ({"scatter": layers - 1.0} if layers > 1 else {}),
    )


def figures(slice_="v5e-8", cycles=1.5e7, hbm=GIB, **more) -> Figures:
    of = Program(hbm / 2, hbm / 4, hbm / 4, 1e12, 1e9, cycles, 1e-3, 400e6, {"gather": 2.0})
    return Figures(parse_slice(slice_), 256, 128, 256 * 128, 8e12, of, (12,), 5.0, **more)


def test_layers_that_cost_the_same_are_extrapolated_exactly():
    assert program(2).plus(10, program(2), program(1)) == program(12)


def test_time_is_cycles_and_the_least_of_what_has_no_estimate():
    f = figures()
    assert f.computing == pytest.approx(0.010)
    assert f.reducing == pytest.approx(2 * 7 / 8 * 400e6 / 200e9)
    assert f.seconds == pytest.approx(0.010 + 0.001 + 0.0035)


def test_mfu_is_flops_over_the_peak_of_all_chips():
    f = figures()
    assert f.mfu == pytest.approx(8e12 / (f.seconds * 8 * 197e12))
    assert f"MFU {100 * f.mfu:.1f} %" in report.full(f)


def test_the_report_never_calls_it_measured():
    text = report.full(figures())
    assert "the compiler's estimate, not a measurement" in text
    assert json.loads(json.dumps(figures().as_values()))["note"].endswith("not a measurement")


def test_what_was_not_compiled_is_said():
    f = Figures(**{**vars(figures()), "layers_compiled": (1, 2)})
    assert "(extrapolated from 1 and 2 layers)" in report.full(f)
    assert "extrapolated" in report.row(256, 128, 1, f) and "compiled" in report.row(
        256, 128, 1, figures()
    )


def test_too_much_memory_does_not_fit_though_it_was_compiled():
    f = figures(hbm=16 * GIB)
    assert (
        not f.fits
        and "DOES NOT FIT" in report.full(f)
        and "too much memory" in report.row(256, 128, 1, f)
    )


def test_the_largest_batch_is_told_from_both_sides():
    text = report.searched(SearchResult(figures(), 264), 8)
    assert "256, 32 a chip" in text and "264 does not fit" in text
    assert "none" in report.searched(SearchResult(None, 8), 1)


def test_donated_results_take_no_room():
    compiled = Compiled(100, 90, 80, 7, 5, 1.0, 2.0, "ENTRY %main (a: f32[]) -> f32[] {\n}\n")
    found = program_of(compiled, parse_slice("v5e-1"))
    assert (found.state, found.working, found.code) == (100, 90 - 80 + 7, 5)
    assert found.hbm == compiled.hbm == 122


def test_few_layers_stand_for_many_only_where_all_are_alike():
    few = shallow(ModelConfig(num_layers=12))
    assert few is not None and [m.num_layers for m in few] == [1, 2]
    windows = shallow(ModelConfig(num_layers=12, local_window=64, global_every=3))
    assert windows is not None and [m.num_layers for m in windows] == [3, 6]
    assert shallow(ModelConfig(num_layers=2)) is None
    assert shallow(ModelConfig(num_layers=3, rpr_k=[8, 16, 32])) is None
    assert shallow(ModelConfig(num_layers=12, num_decoder_layers=6)) is None
