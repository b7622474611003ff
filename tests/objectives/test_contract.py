"""Every objective against the contract; a new one adds its line to CASES where its data or flags are not the plain ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.objectives.contract import (
    CHECKS,
    Case,
    check_batch_size,
    check_exported,
    check_replicas,
    check_static,
    prepare,
)
from tests.toy import toy_labels, toy_pairs
from tpu_tlm.objectives.registry import OBJECTIVES

DUAL = ("--d_out", "24", "--reduction_d_k", "8")
CASES: dict[str, Case] = {
    "discriminator": Case("discriminator", toy_labels),
    "seq2seq": Case(
        "seq2seq", flags=("--denoise", "spans", "--noise_density", "0.4", "--mean_span", "2")
    ),
    "dual-encoder": Case("dual-encoder", toy_pairs, DUAL, whole_batch=True, same=("scale",)),
}
# What an objective has more than one way of doing, each with the checks in which the way matters.
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


@pytest.fixture(scope="module", params=OBJECTIVES)
def trained(request, tmp_path_factory):
    return prepare(
        CASES.get(request.param, Case(request.param)), tmp_path_factory.mktemp(request.param)
    )


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(trained, check, tmp_path):
    check(trained, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name, tmp_path):
    case, checks = VARIANTS[name]
    trained = prepare(case, tmp_path)
    for check in checks:
        base = tmp_path / check.__name__
        base.mkdir()
        check(trained, base)
