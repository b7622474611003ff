"""metrics.jsonl and TensorBoard files: lines, continuing, object storage, files that fail."""

from __future__ import annotations

import json
import math
import sys
import threading
from pathlib import Path

import pytest
import tensorflow as tf

from tpu_tlm.training.callbacks import EvaluationReport, RunStart, StepReport
from tpu_tlm.training.metrics import Metrics, read_metrics
from tpu_tlm.training.recorders import RecordMetrics
from tpu_tlm.training.tensorboard import TensorBoard


def _write(path: Path, steps: range, *, start: int = 0, tb: str | None = None) -> None:
    writers = [Metrics(str(path), start=start), *([TensorBoard(tb, start)] if tb else [])]
    for writer in writers:
        for step in steps:
            writer.write("train", step, {"loss": 10.0 - step})
            if step % 2 == 0:
                writer.write("valid", step, {"loss": 11.0 - step, "accuracy": step / 10})
        writer.close()


def _steps(path: Path, kind: str = "train") -> list[int]:
    return [record["step"] for record in read_metrics(str(path)) if record["kind"] == kind]


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    _write(path, range(1, 4))
    first, second, third, _ = map(json.loads, path.read_text().splitlines())
    assert (first["step"], first["kind"], first["loss"]) == (1, "train", 9.0)
    assert first["time"] > 1.6e9 and second["kind"] == "train"
    del third["time"]
    assert third == {"step": 2, "kind": "valid", "loss": 9.0, "accuracy": 0.2}
    assert read_metrics(str(tmp_path / "none.jsonl")) == []


def test_a_line_is_on_disk_at_once(tmp_path: Path) -> None:
    metrics = Metrics(str(tmp_path / "metrics.jsonl"))
    metrics.write("train", 1, {"loss": 1.0})
    assert _steps(tmp_path / "metrics.jsonl") == [1]
    metrics.close()


def test_a_continued_run_has_no_step_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    _write(path, range(1, 9))
    _write(path, range(5, 11), start=4)
    assert _steps(path) == list(range(1, 11)) and _steps(path, "valid") == [2, 4, 6, 8, 10]
    _write(path, range(1, 3))
    assert _steps(path) == [1, 2], "from the beginning again"


def test_incomplete_and_unreadable_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    _write(path, range(1, 4))
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert _steps(path) == [1, 2] and capsys.readouterr().err == ""
    path.write_text("{}\n" + "[" * 100_000 + "\n" + whole[:-20])
    _write(path, range(3, 6), start=2)
    warnings = capsys.readouterr().err
    assert "metrics.jsonl:1:" in warnings and "metrics.jsonl:2:" in warnings
    assert _steps(path) == [1, 2, 3, 4, 5]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_values_that_are_not_finite_are_null(tmp_path: Path) -> None:
    metrics = Metrics(str(tmp_path / "metrics.jsonl"))
    metrics.write("train", 1, {"loss": math.nan, "grad_norm": math.inf, "lr": 0.5})
    metrics.close()

    def refuse(text: str) -> None:
        raise AssertionError(text)

    record = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert record["loss"] is None and record["grad_norm"] is None and record["lr"] == 0.5


def test_object_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "ram://metrics/run/metrics.jsonl"

    def put(self: object, path: str, data: bytes, version: int | None = None) -> None:
        # TensorFlow's memory file system appends to an existing file, where gs:// replaces it.
        if tf.io.gfile.exists(path):
            tf.io.gfile.remove(path)
        with tf.io.gfile.GFile(path, "wb") as file:
            file.write(data)

    monkeypatch.setattr("tpu_tlm.filesystem.tensorflow_files.TensorFlowFiles.write", put)
    metrics = Metrics(path)
    metrics.write("train", 1, {"loss": 1.0})
    metrics.flush()
    metrics.write("train", 2, {"loss": 0.5})
    metrics.close()
    metrics = Metrics(path, start=1)
    metrics.write("train", 2, {"loss": 0.25})
    metrics.close()
    assert [(r["step"], r["loss"]) for r in read_metrics(path)] == [(1, 1.0), (2, 0.25)]


def _events(directory: Path) -> list[tuple[int, str, float]]:
    points = []
    for path in sorted(directory.glob("events.out.tfevents.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            points += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return points


def test_tensorboard_files(tmp_path: Path) -> None:
    _write(tmp_path / "m.jsonl", range(1, 4), tb=str(tmp_path / "tb"))
    train = [(1, "loss", 9.0), (2, "loss", 8.0), (3, "loss", 7.0)]
    assert _events(tmp_path / "tb" / "train") == train
    valid = [(step, tag) for step, tag, _ in _events(tmp_path / "tb" / "valid")]
    assert valid == [(2, "loss"), (2, "accuracy")]


def test_tensorboard_itself_sees_no_step_twice(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _write(tmp_path / "m.jsonl", range(1, 9), tb=str(tmp_path / "tb"))
    _write(tmp_path / "m.jsonl", range(5, 11), start=4, tb=str(tmp_path / "tb"))
    seen = accumulators.EventAccumulator(str(tmp_path / "tb" / "train")).Reload()
    assert [point.step for point in seen.Scalars("loss")] == list(range(1, 11))


def test_tensorboard_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    _write(tmp_path / "m.jsonl", range(1, 3), tb=str(tmp_path / "tb"))
    assert len(_events(tmp_path / "tb" / "train")) == 2


def _recorded(callback: RecordMetrics, steps: int = 3) -> None:
    callback.on_start(RunStart(0, steps, "run"))
    for step in range(1, steps + 1):
        callback.on_step(StepReport(step, 1, steps, 0.1, {"loss": 1.0}, {}))
        callback.on_evaluate(EvaluationReport(step, {"loss": 2.0}, 10))
        callback.before_save(step)
    callback.on_end()


@pytest.mark.parametrize("writer", [Metrics, TensorBoard])
def test_a_path_that_cannot_be_written_is_one_warning(
    writer: type, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    path = str(tmp_path / "file" / "metrics")
    _recorded(RecordMetrics(path, lambda step: writer(path)))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and path in line


def test_a_disk_that_fills_up_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """/dev/full accepts an open file and refuses every write."""
    path = tmp_path / "metrics.jsonl"

    def opened(step: int) -> Metrics:
        metrics = Metrics(str(path))
        metrics._file = open("/dev/full", "a", encoding="utf-8")
        return metrics

    _recorded(RecordMetrics(str(path), opened))
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line and "No space left" in line


def test_steps_do_not_wait_while_metrics_are_flushed(tmp_path: Path) -> None:
    path = str(tmp_path / "metrics.jsonl")
    flushing, go_on = threading.Event(), threading.Event()

    class Slow(Metrics):
        def flush(self) -> None:
            flushing.set()
            assert go_on.wait(60)
            super().flush()

    callback = RecordMetrics(path, lambda step: Slow(path))
    callback.on_start(RunStart(0, 9, "run"))
    callback.on_step(StepReport(1, 1, 9, 0.1, {"loss": 1.0}, {}))
    thread = threading.Thread(target=lambda: callback.before_save(1))
    thread.start()
    assert flushing.wait(60)
    for step in (2, 3):
        callback.on_step(StepReport(step, 1, 9, 0.1, {"loss": 1.0}, {}))
    callback.on_evaluate(EvaluationReport(3, {"loss": 2.0}, 10))
    assert [r["step"] for r in read_metrics(path)] == [1]
    go_on.set()
    thread.join()
    callback.on_end()
    found = [(r["step"], r["kind"]) for r in read_metrics(path)]
    assert found == [(1, "train"), (2, "train"), (3, "train"), (3, "valid")]
