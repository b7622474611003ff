"""The progress display, and the speeds that it shows."""

from __future__ import annotations

import io
import re

import pytest

from tpu_tlm.training.callbacks import RunStart, StepReport
from tpu_tlm.training.progress import Progress
from tpu_tlm.training.speed import SpeedMeter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def _run(
    progress: Progress,
    clock: Clock,
    calls: int,
    *,
    total: int = 1000,
    seconds: float = 2.0,
    gap: float = 0.0,
    peak: float | None = 2e13,
) -> list[dict[str, float]]:
    meter, found = SpeedMeter(tokens=4096, flops=1e12, peak=peak), []
    progress.on_start(RunStart(0, total, "run"))
    for i in range(calls):
        clock.now += seconds + gap
        found.append(meter.add(10, seconds, 0.5))
        values = {"loss": 5.0 - i, "lr": 3e-4}
        progress.on_step(StepReport((i + 1) * 10, 10, total, seconds, values, found[-1]))
    return found


def test_the_speeds() -> None:
    meter = SpeedMeter(tokens=4096, flops=1e12, peak=2e13)
    assert meter.add(10, 2.0, 0.5) == {}, "the first call is mostly compilation"
    assert meter.input_wait is None
    assert meter.add(10, 2.0, 0.5) == pytest.approx(
        {"step_time": 0.2, "tokens_per_second": 20480, "input_wait": 0.25, "mfu": 0.25}
    )
    meter.add(10, 2.0, 1.5)
    assert meter.input_wait == 0.5


def test_no_mfu_without_a_known_peak() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(stream=stream, every=0.0, clock=clock)
    assert "mfu" not in _run(progress, clock, 2, peak=None)[1]
    assert "tokens/s" in stream.getvalue() and "MFU" not in stream.getvalue()


def test_lines_at_intervals_without_a_terminal() -> None:
    clock, stream = Clock(), io.StringIO()
    _run(Progress(stream=stream, every=10.0, clock=clock), clock, 100)
    lines = stream.getvalue().splitlines()
    assert 20 <= len(lines) <= 22 and "\r" not in stream.getvalue()
    said = "step 10/1000 1%  loss 5  lr 0.0003  2 s with compilation"
    assert re.fullmatch(r"\d\d:\d\d:\d\d " + re.escape(said), lines[0])
    assert any("expected: 3 min" in line for line in lines)
    lines = [line[9:] for line in lines if "expected" not in line]
    for part in ("step 60/1000 6%", "20.5k tokens/s", "200 ms/step", "25.0%", "3 min 8 s left"):
        assert part in lines[1]
    assert lines[-1].startswith("step 1000/1000 100%") and "left" not in lines[-1]


def test_the_time_left_includes_saves_and_evaluations() -> None:
    clock = Clock()
    progress = Progress(stream=io.StringIO(), clock=clock)
    _run(progress, clock, 1)
    assert progress.seconds_left(1000) is None, "unknown after one call"
    _run(progress, clock, 30, gap=1.0)
    assert progress.seconds_left(1000) == pytest.approx(700 * 0.3)


def test_a_terminal_has_one_line_that_is_rewritten() -> None:
    clock, stream = Clock(), Terminal()
    progress = Progress(stream=stream, clock=clock)
    _run(progress, clock, 3, total=50)
    progress.on_message("checkpoint of step 30")
    _run(progress, clock, 2, total=50)
    progress.on_end()
    text = stream.getvalue()
    screen = [re.split("\r", line)[-1].rstrip() for line in text.split("\n")]
    assert screen[0] == "checkpoint of step 30" and screen[1].startswith("step 20/50")
    assert screen[2:] == [""] and "\rstep 30/50" in text


def test_a_closed_stream_does_not_end_a_run() -> None:
    clock = Clock()
    full = open("/dev/full", "w")
    _run(Progress(stream=full, every=0.0, clock=clock), clock, 3)
    with pytest.raises(OSError):
        full.close()
    closed = io.StringIO()
    progress = Progress(stream=closed, every=0.0, clock=clock)
    closed.close()
    _run(progress, clock, 3)
