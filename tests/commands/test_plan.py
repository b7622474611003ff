"""The command that plans: what it refuses, and what it prints of what was compiled."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.command_modules import plan
from tests.paths import ROOT
from tests.planning.test_figures import figures
from tpu_tlm.config import Config, PlanConfig
from tpu_tlm.errors import TlmError, UsageError, run_command
from tpu_tlm.planning import run
from tpu_tlm.planning.chips import GIB, parse_slice
from tpu_tlm.planning.compiler import Allocation, Refused
from tpu_tlm.planning.stand_in import stand_in
from tpu_tlm.planning.subject import Subject, subject_of

SIZES = ["--seq_length", "128", "--vocab_size", "1000"]
REFUSED = Refused(
    40 * GIB,
    int(15.75 * GIB),
    GIB,
    (Allocation(3 * GIB, "model_1/encoder_1/0_1/attn_1/Softmax", "f32[8]"),),
    "",
)


def given(**values) -> Config:
    from tpu_tlm.config import cli

    return Config(
        *cli.build(Config.groups(), {"tpu": "v5e-8", **values}, "test", check_required=False)
    )


def subject(**values) -> Subject:
    return Subject(
        given(**values), stand_in(1000, {"x": 128}), parse_slice("v5e-8"), lambda what: None
    )


def error_of(capsys, argv) -> tuple[int, str]:
    code = run_command(plan.main, argv)
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return code, error


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "--tpu is required"),
        (["--tpu", "v9-1"], "--tpu v9-1"),
        (["--tpu", "v5e-8", "--batch_sise", "3"], "--batch_sise"),
        (
            ["--tpu", "v5e-8", *SIZES, "--plan_python", "/no/such/python"],
            "/no/such/python: there is no such program; make the environment",
        ),
    ],
)
def test_wrong_use_is_one_line(argv, words, capsys):
    code, error = error_of(capsys, argv)
    assert code == 2 and words in error


def test_a_python_that_cannot_compile_is_named_with_the_mend(tmp_path):
    """A real child: this environment stands for one that lacks the packages."""
    from tpu_tlm.planning import environment

    if not environment.missing():
        pytest.skip("this environment can compile")
    command = [
        sys.executable,
        "-m",
        "tpu_tlm.plan",
        "--tpu",
        "v5e-1",
        *SIZES,
        "--plan_python",
        sys.executable,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "cannot compile for a TPU: it lacks" in done.stderr and "make plan-env" in done.stderr


def test_without_data_their_sizes_are_needed_and_with_data_not_taken():
    with pytest.raises(UsageError, match="--train_dir, or --seq_length and --vocab_size"):
        subject_of(given(), PlanConfig(seq_length=128), print)
    with pytest.raises(UsageError, match="--seq_length 128: --train_dir"):
        subject_of(given(train_dir="somewhere"), PlanConfig(seq_length=128), print)


def test_data_say_their_sizes(tmp_path):
    from tests.toy import toy_dataset

    data = toy_dataset(tmp_path / "data", seq_length=16, words=40)
    found = subject_of(given(train_dir=str(data)), PlanConfig(), print)
    assert found.length == 16 and len(found.corpora.tokenizer.tokens) == 45


def test_another_length_keeps_the_proportion_of_pairs():
    pairs = Subject(given(), stand_in(1000, {"x": 128, "y": 64}), parse_slice("v5e-1"), print)
    assert pairs.of_length(512).corpora.train.lengths == {"x": 512, "y": 256}
    assert pairs.of_length(512).length == 512


def test_a_batch_that_fits(monkeypatch, capsys):
    monkeypatch.setattr(Subject, "compile", lambda self, batch: figures())
    assert run.plan_batch(subject(batch_size=256), PlanConfig(search=False)) == 0
    out = capsys.readouterr().out
    assert "fits: 1.00 GiB of 15.75 GiB" in out and "not a measurement" in out


def test_hours_of_the_whole_run_stand_first(monkeypatch, capsys):
    monkeypatch.setattr(Subject, "compile", lambda self, batch: figures())
    step = figures()
    run.plan_batch(subject(batch_size=256, steps=500_000), PlanConfig(search=False))
    first = capsys.readouterr().out.splitlines()[0]
    hours = 500_000 * step.seconds / 3600
    assert f"500,000 steps take at least {hours:.1f} hours" in first
    assert f"{500_000 * step.tokens:.3g} tokens" in first
    run.plan_batch(subject(batch_size=256, steps=500_000), PlanConfig(search=False, json=True))
    assert json.loads(capsys.readouterr().out)["run"] == {"steps": 500_000, "hours": hours}
    run.plan_batch(subject(batch_size=256), PlanConfig(search=False))
    assert "hours" not in capsys.readouterr().out, "neither steps nor data are known"
    monkeypatch.setattr(Subject, "compile", lambda self, batch: REFUSED)
    with pytest.raises(TlmError, match="does not fit"):
        run.plan_batch(subject(batch_size=256, steps=500_000), PlanConfig(search=False))
    assert "hours" not in capsys.readouterr().out


def test_a_batch_that_does_not_fit_is_a_failure_with_figures_and_the_largest_that_does(
    monkeypatch, capsys
):
    monkeypatch.setattr(
        Subject, "compile", lambda self, batch: REFUSED if batch > 300 else figures()
    )
    monkeypatch.setattr(Subject, "extrapolate", lambda self, batch: None)
    with pytest.raises(
        TlmError,
        match="--batch_size 4096 does not fit a v5e-8: it needs 40.00 GiB of the 15.75 GiB",
    ) as error:
        run.plan_batch(subject(batch_size=4096), PlanConfig())
    assert not isinstance(
        error.value, UsageError
    ) and "the largest batch that was found to fit is 256" in str(error.value)
    assert "3.00 GiB  encoder/0/attn/Softmax" in capsys.readouterr().out


def test_json_is_one_object(monkeypatch, capsys):
    monkeypatch.setattr(Subject, "compile", lambda self, batch: figures())
    assert run.plan_batch(subject(batch_size=256), PlanConfig(search=False, json=True)) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["step"]["fits"] is True and found["step"]["batch"] == 256 and found["largest"] is None
    )


def test_a_sweep_has_a_row_for_every_batch_and_length(monkeypatch, capsys):
    asked = []

    def answer(self, batch):
        asked.append((self.length, batch))
        return REFUSED if batch > 100 else figures()

    monkeypatch.setattr(Subject, "compile", answer)
    assert (
        run.plan_sweep(
            subject(batch_size=256), PlanConfig(sweep_batches=[64, 128], sweep_lengths=[128, 512])
        )
        == 0
    )
    assert asked == [(128, 64), (128, 128), (512, 64), (512, 128)]
    out = capsys.readouterr().out
    assert out.count("refused by the compiler") == 2 and "not a measurement" in out

    assert run.plan_sweep(subject(batch_size=256), PlanConfig(json=True)) == 0
    table = json.loads(capsys.readouterr().out)["table"]
    assert [row["fits"] for row in table] == [True, False, False, False]  # 64, 128, 256, 512


def test_a_sweep_over_micro_batches(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        Subject,
        "compile",
        lambda self, batch: asked.append((batch, self.options.optim.grad_accum)) or figures(),
    )
    assert (
        run.plan_sweep(
            subject(batch_size=64), PlanConfig(sweep_batches=[256], sweep_accum=[1, 4], json=True)
        )
        == 0
    )
    assert asked == [(256, 1), (256, 4)]
    assert [row["grad_accum"] for row in json.loads(capsys.readouterr().out)["table"]] == [1, 4]
    # 8 chips, 3 micro-batches: the default batches are made to fit, those that are given are not
    # changed.
    asked.clear()
    assert run.plan_sweep(subject(batch_size=64), PlanConfig(sweep_accum=[3])) == 0
    assert asked == [(24, 3), (48, 3), (120, 3)]
    with pytest.raises(UsageError, match="--sweep_batches 64: must be a multiple of 24"):
        run.plan_sweep(subject(batch_size=64), PlanConfig(sweep_batches=[64], sweep_accum=[3]))


def test_a_quick_sweep_does_not_compile_whole_models(monkeypatch, capsys):
    monkeypatch.setattr(Subject, "compile", lambda self, batch: pytest.fail("compiled"))
    monkeypatch.setattr(Subject, "extrapolate", lambda self, batch: figures())
    assert run.plan_sweep(subject(batch_size=256), PlanConfig(quick=True)) == 0
    assert run.plan_batch(subject(batch_size=256), PlanConfig(quick=True, search=False)) == 0
