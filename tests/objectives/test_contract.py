"""Every objective against the contract; a new one adds its line to CASES where its data or flags are not the plain ones."""

from __future__ import annotations

import pytest

from tests.objectives.contract import CHECKS, Case, prepare
from tests.toy import toy_labels, toy_pairs
from tpu_tlm.objectives.make import OBJECTIVES

CASES: dict[str, Case] = {
    "discriminator": Case("discriminator", toy_labels),
    "seq2seq": Case("seq2seq", flags=("--denoise", "spans", "--noise_density", "0.4", "--mean_span", "2")),
    "dual-encoder": Case("dual-encoder", toy_pairs, ("--d_out", "24", "--reduction_d_k", "8"), whole_batch=True),
}


@pytest.fixture(scope="module", params=OBJECTIVES)
def trained(request, tmp_path_factory):
    return prepare(CASES.get(request.param, Case(request.param)), tmp_path_factory.mktemp(request.param))


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(trained, check, tmp_path):
    check(trained, tmp_path)
