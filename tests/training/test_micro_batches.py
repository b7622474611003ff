"""`--grad_accum auto`: by memory on processors and GPUs, by the TPU compiler or a rule on a TPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.toy_runs import ToyRun, fit, one_device, options_of
from tpu_tlm.checkpoints.run_dir import RunDir
from tpu_tlm.config import Config, OptimConfig
from tpu_tlm.devices.select import Devices
from tpu_tlm.errors import OptionError, TlmError, UsageError
from tpu_tlm.training import memory, micro_batches, setup, start_report


def test_numbers_divide_the_rows():
    assert micro_batches.candidates(48) == [1, 2, 4, 8, 16]
    assert micro_batches.candidates(7) == [1]


@pytest.mark.parametrize("given", ["auto", "AUTO", 0, "0"])
def test_auto_is_a_value(given):
    assert OptimConfig(grad_accum=given).grad_accum == micro_batches.AUTO
    with pytest.raises(OptionError, match="grad_accum"):
        OptimConfig(grad_accum="automatic")


def _choose(config: Config, directory: str, devices: Devices | None = None) -> tuple[int, str]:
    devices = devices or one_device()
    one = config.replace(grad_accum=1)
    experiment = setup.build(one, one_device())
    found, chosen, line = micro_batches.with_micro_batches(
        one, experiment, devices, RunDir(directory)
    )
    assert found.optim.grad_accum == chosen.step.grad_accum
    return chosen.step.grad_accum, line


def test_the_least_number_that_fits_the_memory(toy_run: ToyRun, tmp_path, monkeypatch):
    config = options_of(toy_run.corpus, tmp_path, "--batch_size", 64, "--grad_accum", "auto")
    assert _choose(config, str(tmp_path))[0] == 1
    experiment = setup.build(config.replace(grad_accum=1), one_device())
    parameters = start_report.parameters_of(experiment)

    def needed(number: int) -> int:
        divided = config.replace(grad_accum=number)
        return memory.step_memory(divided, experiment.spec, parameters, 1, "float32").total

    free = (needed(4) + needed(8)) / 2 / 0.9
    monkeypatch.setattr(micro_batches, "available_memory", lambda kind: int(free))
    number, line = _choose(config, str(tmp_path))
    assert number == 8 and "--grad_accum auto: 8" in line
    monkeypatch.setattr(micro_batches, "available_memory", lambda kind: 1)
    number, line = _choose(config, str(tmp_path))
    assert number == 64 and "none fits" in line
    monkeypatch.setattr(micro_batches, "available_memory", lambda kind: None)
    assert _choose(config, str(tmp_path))[0] == 1


def test_a_run_keeps_its_number(toy_run: ToyRun, tmp_path, monkeypatch, capsys):
    run_dir = tmp_path / "run"

    def auto(steps: int, *flags: object) -> Config:
        given = ("--steps", steps, "--warmup_steps", 0, "--grad_accum", "auto", *flags)
        return options_of(toy_run.corpus, run_dir, *given)

    monkeypatch.setattr(micro_batches, "candidates", lambda rows: [2])
    fit(auto(2))
    assert "--grad_accum auto: 2, the least" in capsys.readouterr().out
    monkeypatch.setattr(micro_batches, "candidates", lambda rows: [4])
    fit(auto(4))
    out = capsys.readouterr().out
    assert (
        "--grad_accum auto: 2, as the run was begun with" in out and "--grad_accum was" not in out
    )
    # Another batch is divided anew.
    assert _choose(auto(6, "--batch_size", 16), str(run_dir))[0] == 4


def test_examples_that_are_compared_stay_together(toy_run: ToyRun, tmp_path, monkeypatch):
    monkeypatch.setattr(micro_batches, "available_memory", lambda kind: 1)
    config = options_of(toy_run.corpus, tmp_path, "--batch_size", 8)
    experiment = setup.build(config, one_device())

    class Comparing(type(experiment.objective)):
        cross_replica = True

    experiment = replace(experiment, objective=Comparing.__new__(Comparing))
    found = micro_batches.with_micro_batches(
        config, experiment, one_device(), RunDir(str(tmp_path / "run"))
    )
    assert found[0].optim.grad_accum == 1 and "compared" in found[2]


@pytest.mark.parametrize(("rows", "expected"), [(64, 1), (1024, 2), (4096, 8)])
def test_on_a_tpu_the_compiler_decides_or_a_rule(rows, expected, toy_run: ToyRun, tmp_path):
    config = options_of(toy_run.corpus, tmp_path, "--batch_size", 8)
    experiment = setup.build(config, one_device())
    assert experiment.spec.seq_length == 16
    tpu = Devices(None, "tpu", 1, "v5litepod-1", "")
    asked: list[Any] = []

    def plan(config: Config, slice_: str, plan: Any) -> dict[str, Any]:
        asked.append((config.optim.grad_accum, slice_, plan.quick, plan.search))
        return {"step": {"grad_accum": 4, "fits": len(asked) == 1}}

    number, why = micro_batches.on_tpu(config, experiment, tpu, rows, plan)
    assert number == 4 and asked == [(0, "v5litepod-1", True, False)] and "compiler" in why

    assert "none fits" in micro_batches.on_tpu(config, experiment, tpu, rows, plan)[1]
    for error in (UsageError("no environment can compile"), TlmError("it fails")):

        def failing(*_: Any, error: Exception = error) -> dict[str, Any]:
            raise error

        number, why = micro_batches.on_tpu(config, experiment, tpu, rows, failing)
        assert number == expected and str(error) in why
