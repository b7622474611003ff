"""The search for the largest batch, on made-up chips."""

from __future__ import annotations

import pytest

from tpu_tlm.planning.chips import parse_slice
from tpu_tlm.planning.compiler import Refused
from tpu_tlm.planning.figures import Figures, Program
from tpu_tlm.planning.search import CLOSE, TRIES, largest

LIMIT = parse_slice("v5e-1").chip.hbm
STATE = LIMIT * 0.1


class Compiler:
    """Programs whose working memory is `need(batch)`; keeps what was compiled."""

    def __init__(self, need, factor=1.0, quick=True):
        self.need, self.factor, self.quick, self.compiled = need, factor, quick, []

    def figures(self, batch, working, layers=(12,)):
        program = Program(STATE, working, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, {})
        return Figures(parse_slice("v5e-1"), batch, 128, 128 * batch, 1.0, program, layers, 1.0)

    def compile(self, batch):
        self.compiled.append(batch)
        working = self.need(batch)
        if STATE + working > LIMIT:
            return Refused(int(STATE + working), LIMIT, int(STATE), (), "")
        return self.figures(batch, working)

    def extrapolate(self, batch):
        return self.figures(batch, self.need(batch) * self.factor, (1, 2)) if self.quick else None

    def search(self, batch, unit=1):
        first = self.compile(batch)
        self.compiled.clear()
        return largest(batch, first, LIMIT, unit, self.compile, self.extrapolate)


@pytest.mark.parametrize("begin", [8, 200, 512, 4096])
@pytest.mark.parametrize("factor", [0.8, 1.0, 1.3])
@pytest.mark.parametrize("quick", [True, False])
def test_the_largest_is_found_from_below_and_above_though_the_guess_is_off(begin, factor, quick):
    row = LIMIT * 0.9 / 300.5
    compiler = Compiler(lambda batch: 20 * row + row * batch, factor, quick)
    found = compiler.search(begin)
    assert found.best is not None and found.best.batch <= 280
    assert found.best.batch >= 280 * (1 - 2 * CLOSE)
    assert found.refused is None or found.refused > 280
    assert len(compiler.compiled) <= TRIES


def test_the_edge_is_shown_from_both_sides():
    row = LIMIT * 0.9 / 300.5
    found = Compiler(lambda batch: row * batch).search(64)
    assert found.best.batch <= 300 < found.refused
    assert found.refused - found.best.batch <= CLOSE * 300 + 8


def test_a_compiler_that_saves_memory_when_it_grows_short_is_followed():
    """Past three quarters of the memory a row costs half: a straight line would stop too early."""
    row, bend = LIMIT * 0.9 / 200, 150

    def need(batch):
        return row * (batch if batch < bend else bend + (batch - bend) / 2)

    found = Compiler(need).search(64)
    assert found.best.batch > 215  # 250 is the end, the line says 200


def test_batches_are_multiples_of_what_a_batch_is_divided_into():
    row = LIMIT * 0.9 / 1000
    compiler = Compiler(lambda batch: row * batch)
    found = compiler.search(64, unit=32)
    assert found.best is not None and all(
        batch % 32 == 0 for batch in [found.best.batch, *compiler.compiled]
    )


def test_few_rows_are_counted_one_by_one():
    row = LIMIT * 0.9 / 5.5
    found = Compiler(lambda batch: row * batch).search(2)
    assert (found.best.batch, found.refused) == (5, 6)


def test_a_model_whose_state_is_too_large_is_not_searched():
    compiler = Compiler(lambda batch: 1.0)
    refused = Refused(LIMIT * 2, LIMIT, LIMIT + 1, (), "")
    found = largest(8, refused, LIMIT, 1, compiler.compile, compiler.extrapolate)
    assert found.best is None and compiler.compiled == []


def test_not_even_one_row():
    found = Compiler(lambda batch: LIMIT * (1 + 0.1 * batch)).search(16)
    assert found.best is None
