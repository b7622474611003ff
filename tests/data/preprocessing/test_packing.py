"""Packing: nothing lost, nothing reordered, whatever the pieces the tokens come in."""

from __future__ import annotations

import numpy as np
import pytest

from tpu_tlm.data.preprocessing.packing import Packer, Packing, Tokens
from tpu_tlm.errors import UsageError

PAD, CLS, SEP, EOL = 0, 1, 2, 3


def _corpus(seed: int) -> list[list[list[int]]]:
    """Documents of lines of ids from 10 on, all different; some lines are empty."""
    rng = np.random.default_rng(seed)
    number = iter(range(10, 100000))
    return [
        [[next(number) for _ in range(rng.integers(0, 9))] for _ in range(rng.integers(1, 6))]
        for _ in range(rng.integers(1, 30))
    ]


def _feed(
    packer: Packer, documents: list[list[list[int]]], per_call: int
) -> list[tuple[list[int], list[bool]]]:
    lines = [(line, i == 0) for document in documents for i, line in enumerate(document)]
    rows = []
    for at in range(0, len(lines), per_call):
        part = lines[at : at + per_call]
        ids = np.array([token for line, _ in part for token in line], np.uint32)
        offsets = np.cumsum([0] + [len(line) for line, _ in part])
        found = packer.add_lines(
            Tokens(ids, ids % 3 == 0),
            offsets,
            np.array([b for _, b in part]),
            np.ones(len(part), bool),
        )
        rows += list(zip(found.ids.tolist(), found.word_start.tolist(), strict=True))
    last = packer.finish()
    return rows + list(zip(last.ids.tolist(), last.word_start.tolist(), strict=True))


def _expected(documents: list[list[list[int]]], packing: Packing) -> list[list[int]]:
    """The plain way, token by token."""
    runs = [
        [token for line in document for token in [*line, *([EOL] if packing.eol else [])]]
        for document in documents
    ]
    if not packing.documents:
        runs = [[token for run in runs for token in run]]
    rows = []
    for run in runs:
        for at in range(0, len(run), packing.body):
            row = (
                [CLS] * (packing.prefix is not None)
                + run[at : at + packing.body]
                + [SEP] * (packing.suffix is not None)
            )
            rows.append(row + [PAD] * (packing.seq_length - len(row)))
    return rows


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize(
    ("prefix", "suffix", "eol"),
    [(None, None, None), (CLS, None, EOL), (CLS, SEP, None), (None, SEP, EOL)],
)
@pytest.mark.parametrize("per_call", [1, 3, 1000])
def test_equals_the_plain_way(
    documents: bool, prefix: int | None, suffix: int | None, eol: int | None, per_call: int
) -> None:
    for seed in range(4):
        corpus = _corpus(seed)
        packing = Packing(8, PAD, prefix, suffix, eol, documents)
        found = _feed(Packer(packing), corpus, per_call)
        assert [ids for ids, _ in found] == _expected(corpus, packing)
        for ids, starts in found:
            for token, start in zip(ids, starts, strict=True):
                assert start == (token == EOL if token < 10 else token % 3 == 0)


def test_a_cut_line_gets_its_end_once() -> None:
    packer = Packer(Packing(4, PAD, eol=EOL))
    one, two = (
        Tokens(np.array([10, 11], np.uint32), np.ones(2, bool)),
        Tokens(np.empty(0, np.uint32), np.empty(0, bool)),
    )
    rows = packer.add_lines(one, np.array([0, 2]), np.array([True]), np.array([False]))
    assert len(rows.ids) == 0
    packer.add_lines(two, np.array([0, 0]), np.array([False]), np.array([True]))
    assert packer.finish().ids.tolist() == [[10, 11, EOL, PAD]]
    assert len(packer.finish().ids) == 0


def test_leftover_is_given_once_and_goes_on_elsewhere() -> None:
    first, second = Packer(Packing(4, PAD)), Packer(Packing(4, PAD))
    ids = np.arange(10, 16, dtype=np.uint32)
    assert first.add(Tokens(ids, ids > 0)).ids.tolist() == [[10, 11, 12, 13]]
    rest = first.leftover()
    assert rest.ids.tolist() == [14, 15] and len(first.leftover().ids) == 0
    second.add(rest)
    assert second.add(rest).ids.tolist() == [[14, 15, 14, 15]]


def test_no_room_is_refused() -> None:
    with pytest.raises(UsageError, match="--seq_length 2"):
        Packing(2, PAD, prefix=CLS, suffix=SEP)
