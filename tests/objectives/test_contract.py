"""Every objective against the contract. A new one adds a line to `contract.CASES` where it needs
other data or flags than the plain ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.objectives.contract import (
    CHECKS,
    DUAL,
    Case,
    check_batch_size,
    check_continued,
    check_exported,
    check_replicas,
    check_static,
    prepare,
)
from tests.toy import toy_pairs
from tpu_tlm.objectives.registry import OBJECTIVES

# Other programs of an objective, each with the checks in which they matter.
VARIANTS: dict[str, tuple[Case, tuple[Callable[..., None], ...]]] = {
    "dual-encoder in micro-batches": (
        Case(
            "dual-encoder",
            toy_pairs,
            (*DUAL, "--grad_accum", "2"),
            whole_batch=True,
            same=("scale",),
        ),
        (check_replicas, check_static),
    ),
    "electra in micro-batches": (Case("electra", flags=("--grad_accum", "2")), (check_replicas,)),
    "seq2seq of pairs": (
        Case("seq2seq", toy_pairs),
        (check_replicas, check_exported, check_batch_size),
    ),
    "seq2seq, infilling": (
        Case("seq2seq", flags=("--denoise", "infilling", "--noise_density", "0.4")),
        (check_replicas, check_batch_size),
    ),
}


# Checks that start processes: each objective by `make test-all`, these by `make test` too.
PROCESSES = (check_continued, check_replicas)
SOONER = ("mlm", "electra")


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(
            name,
            check,
            id=f"{name}-{check.__name__}",
            marks=[pytest.mark.long] if check in PROCESSES and name not in SOONER else [],
        )
        for name in OBJECTIVES
        for check in CHECKS
    ],
)
def test_contract(name, check, contract_run, tmp_path):
    check(contract_run(name), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name, tmp_path):
    case, checks = VARIANTS[name]
    trained = prepare(case, tmp_path)
    for check in checks:
        base = tmp_path / check.__name__
        base.mkdir()
        check(trained, base)
