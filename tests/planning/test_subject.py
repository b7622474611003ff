"""What a planned run is made of: the model of --init_from."""

from __future__ import annotations

from typing import Any

import pytest

from tests.paths import ROOT
from tpu_tlm.config import Config, PlanConfig, cli
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.load import load
from tpu_tlm.planning.run import plan_sweep, with_best_accum
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


class Compiled:
    """Figures of a step of so many seconds; a program that does not fit for none."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds, self.fits = seconds, seconds is not None


@pytest.mark.parametrize(
    ("seconds", "best", "compiled"),
    [
        ({1: 9.0, 2: 5.0, 4: 6.0, 8: 1.0}, 2, [1, 2, 4]),  # no further once it becomes slower
        ({1: None, 2: None, 4: 6.0, 8: 5.0}, 8, [1, 2, 4, 8]),
        ({1: None, 2: None, 4: None, 8: None}, 8, [1, 2, 4, 8]),
        ({1: 3.0, 2: 4.0}, 1, [1, 2]),
    ],
)
def test_micro_batches_are_those_of_the_fastest_program(
    seconds: dict[int, float | None], best: int, compiled: list[int], monkeypatch: Any
) -> None:
    subject, said = planned("--seq_length", "8", "--batch_size", "1024", "--grad_accum", "auto")
    tried: list[int] = []

    def quick(self: Subject, batch: int) -> Any:
        tried.append(self.options.optim.grad_accum)
        return Compiled(seconds[tried[-1]])

    monkeypatch.setattr(Subject, "quick", quick)
    found, answer = with_best_accum(subject, PlanConfig(quick=True))
    assert found.options.optim.grad_accum == best and tried == compiled
    assert answer.seconds == seconds[best]
    assert all(any(f"--grad_accum {n}:" in line for line in said) for n in compiled)


def test_a_sweep_takes_its_numbers_from_sweep_accum() -> None:
    subject, _ = planned("--seq_length", "8", "--grad_accum", "auto")
    with pytest.raises(UsageError, match="sweep_accum"):
        plan_sweep(subject, PlanConfig(sweep=True))


def test_the_program_is_lowered_for_the_chip_of_the_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, _ = planned("--tpu", "v6e-4", "--batch_size", "8")
    named: list[object] = []

    def lowered(*given: object) -> None:
        named.extend(given[2:])
        raise ZeroDivisionError

    monkeypatch.setattr("tpu_tlm.planning.subject.lower", lowered)
    with pytest.raises(ZeroDivisionError):
        subject.compile(8)
    assert named == [4, "v6e-4"]
