"""What watches a run: plateau, spaced saves, the best checkpoint."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.toy_runs import ToyRun
from tpu_tlm.checkpoints.best import note_best, read_best
from tpu_tlm.checkpoints.manager import Checkpoints
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.load import is_run, load
from tpu_tlm.training.best import KeepBest
from tpu_tlm.training.callbacks import EvaluationReport, RunStart, SaveReport, StepReport
from tpu_tlm.training.watch import Plateau, SpaceSaves, advice


def report(step: int, loss: float = 6.0, total: int = 1000, step_time: float = 0.0) -> StepReport:
    speeds = {"step_time": step_time} if step_time else {}
    return StepReport(step, 10, total, 1.0, {"loss": loss}, speeds)


def plateau(losses: float | list[float]) -> list[str]:
    said: list[str] = []
    watch = Plateau(lambda: 6.1, 100, "another --lr", said.append)
    for index, step in enumerate(range(10, 1001, 10)):
        watch.on_step(report(step, losses if isinstance(losses, float) else losses[index]))
    return said


def test_a_plateau_at_word_frequencies_is_said_once_with_what_helps() -> None:
    (line,) = plateau(6.05)
    assert "step 300" in line and "6.10" in line and "another --lr" in line
    assert plateau(5.0) == []
    assert plateau([7.0] * 10 + [5.5] * 90) == [], "only the beginning"


def test_the_advice_names_what_is_unusual() -> None:
    assert "--weight_std 0.053 for a width of 128" in advice(1e-3, 128, 0.02, False)
    assert "weight_std" not in advice(1e-4, 768, 0.02, False)
    assert "rotary" in advice(1e-3, 768, 0.02, True) and "0.003" in advice(1e-3, 768, 0.02, True)


def spaced(
    step_time: float,
    copying: float,
    size: int = 1,
    kind: str = "cpu",
    processor: float = 0.0,
    seconds: float = 0.0,
    waiting: float = 0.0,
    evaluation: float = 0.0,
) -> int:
    """Steps between saves, from 10, after a few calls of ten steps, each with a save."""
    from tpu_tlm.training.trainer import Intervals

    now = [0.0]
    watch = SpaceSaves(clock=lambda: now[0])
    trainer: Any = SimpleNamespace(
        intervals=Intervals(10, 10),
        peers=SimpleNamespace(size=size),
        devices=SimpleNamespace(kind=kind),
    )
    watch.trainer = trainer
    saved: Any = SaveReport(0, "", (), lambda: None, seconds, processor)  # type: ignore[arg-type, return-value]
    for step in range(10, 101, 10):
        now[0] += 10 * step_time
        call = report(step, step_time=step_time)
        watch.on_step(dataclasses.replace(call, seconds=10 * step_time))
        now[0] += evaluation
        watch.on_evaluate(EvaluationReport(step, {}, 1))
        watch.before_save(step)
        now[0] += waiting
        watch.on_save(saved)
        now[0] += copying
    return int(trainer.intervals.save_steps)


def test_saves_are_a_minute_and_a_hundred_times_their_cost_apart() -> None:
    assert spaced(60.0, 0.5) == 10, "long steps stay as they are"
    assert 60.0 <= spaced(0.1, 0.1) * 0.1 < 70.0
    assert 1000.0 <= spaced(1.0, 10.0) * 1.0 < 1100.0
    assert 1000.0 <= spaced(1.0, 0.0, evaluation=10.0) * 1.0 < 1100.0
    assert spaced(0.1, 0.1, size=2) == 10, "processes would not agree"


def test_a_save_beside_the_steps_costs_processor_time_where_they_need_it() -> None:
    assert 200.0 <= spaced(0.1, 0.01, processor=2.0) * 0.1 < 210.0
    assert spaced(0.1, 0.01, kind="tpu", processor=2.0) * 0.1 < 70.0


def test_no_save_waits_for_the_one_before_for_long() -> None:
    # A wait counts by what it waited for, not a hundredfold.
    assert 180.0 <= spaced(0.1, 0.01, seconds=120.0, waiting=60.0) * 0.1 < 190.0


def test_the_best_checkpoint_outlives_newer_ones(tmp_path) -> None:
    checkpoints = Checkpoints(str(tmp_path), keep=1)
    keep = KeepBest(checkpoints)
    keep.on_start(RunStart(0, 100, "run"))
    for step, loss in ((10, 5.0), (20, 3.0), (30, 4.0), (40, 3.5)):
        keep.on_evaluate(EvaluationReport(step, {"loss": loss}, 1))
        path = checkpoints.save(step, {"a": np.ones(2, np.float32) * step}, {})
        keep.on_save(SaveReport(step, path, (), lambda: None))  # type: ignore[arg-type, return-value]
    assert checkpoints.steps() == [20, 40] and read_best(str(tmp_path)) == (20, 3.0)
    # A continued run knows it; an evaluation without a checkpoint does not count.
    again = KeepBest(other := Checkpoints(str(tmp_path), keep=1))
    again.on_start(RunStart(40, 100, "run"))
    assert other.pinned == {20}
    again.on_evaluate(EvaluationReport(45, {"loss": 1.0}, 1))
    path = other.save(50, {"a": np.ones(2, np.float32)}, {})
    again.on_save(SaveReport(50, path, (), lambda: None))  # type: ignore[arg-type, return-value]
    assert other.steps() == [20, 50] and read_best(str(tmp_path)) == (20, 3.0)


def test_run_at_best_names_that_checkpoint(toy_run: ToyRun, tmp_path, monkeypatch) -> None:
    run = str(toy_run.run_dir)
    found = read_best(f"{run}/checkpoints")
    assert found is not None and found[0] in (10, 20, 30)
    assert load(f"{run}@best").source.endswith(f"step-{found[0]:08d}")
    assert is_run(f"{run}@best")
    with pytest.raises(UsageError, match="--step 5"):
        load(f"{run}@best", step=5)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UsageError, match="--valid_dir"):
        load(f"{tmp_path}@best")
    note_best(str(tmp_path / "checkpoints"), 7, 1.0)
    assert read_best(str(tmp_path / "checkpoints")) == (7, 1.0)
    (tmp_path / "checkpoints" / "best.json").write_text("{}")
    assert read_best(str(tmp_path / "checkpoints")) is None
