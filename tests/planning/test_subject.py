"""What a planned run is made of: the model of --init_from."""

from __future__ import annotations

from typing import Any

import pytest

from tests.paths import ROOT
from tpu_tlm.config import Config, PlanConfig, cli
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.load import load
from tpu_tlm.planning.subject import Subject, subject_of

BERT = str(ROOT / "tests" / "first_edition" / "files" / "exports" / "bert")


def planned(*flags: str, **plan: Any) -> tuple[Subject, list[str]]:
    said: list[str] = []
    argv = ["--tpu", "v5e-1", "--init_from", BERT, *flags]
    parts = cli.parse("plan", "", (PlanConfig, *Config.groups()), argv, check_required=False)
    found, *groups = parts
    return subject_of(Config(*groups), found, said.append), said


def test_the_model_of_init_from_is_planned() -> None:
    subject, said = planned()
    spec = load(BERT).spec
    for name in ("d_model", "num_layers", "num_heads", "d_ff", "position_encoding", "activation"):
        assert getattr(subject.options.model, name) == getattr(spec.config, name), name
    assert subject.length == spec.seq_length
    assert len(subject.corpora.tokenizer.tokens) == spec.vocab_size
    assert any(f"d_model={spec.config.d_model}" in line for line in said)
    longer, _ = planned("--seq_length", "8")
    assert longer.length == 8


def test_another_shape_is_refused() -> None:
    with pytest.raises(UsageError, match="--init_from.*num_layers"):
        planned("--num_layers", "7")
