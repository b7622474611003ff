from __future__ import annotations

import io
import re

import pytest

from tpu_tlm.training.progress import Progress, duration, quantity


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def _run(
    progress: Progress, clock: Clock, calls: int, *, seconds: float = 2.0, gap: float = 0.0
) -> list[dict[str, float]]:
    speeds = []
    for i in range(calls):
        clock.now += seconds + gap
        speeds.append(
            progress.update(
                (i + 1) * 10,
                steps=10,
                seconds=seconds,
                waited=0.5,
                values={"loss": 5.0 - i, "lr": 3e-4},
            )
        )
    return speeds


def test_the_speeds() -> None:
    clock = Clock()
    progress = Progress(1000, tokens=4096, flops=1e12, peak=2e13, stream=io.StringIO(), clock=clock)
    first, second = _run(progress, clock, 2)
    assert first == {}, "the time of the first call is compilation"
    assert second == pytest.approx(
        {"step_time": 0.2, "tokens_per_second": 20480, "input_wait": 0.25, "mfu": 0.25}
    )


def test_no_mfu_where_the_peak_is_not_known() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(
        20, tokens=4096, flops=1e12, peak=None, stream=stream, every=0.0, clock=clock
    )
    assert "mfu" not in _run(progress, clock, 2)[1] and "MFU" not in stream.getvalue()


def test_plain_lines_at_a_sane_rate() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(
        1000, tokens=4096, flops=1e12, peak=2e13, stream=stream, every=10.0, clock=clock
    )
    _run(progress, clock, 100)
    lines = stream.getvalue().splitlines()
    assert 20 <= len(lines) <= 22 and "\r" not in stream.getvalue()
    assert lines[0] == "step 10/1000 1%  loss 5  lr 0.0003  2 s with compilation"
    assert (
        lines[1]
        == "step 60/1000 6%  loss 0  lr 0.0003  20.5k tokens/s  200 ms/step  input wait 25.0%  MFU 25.0%  3 min 8 s left"
    )
    assert lines[-1].startswith("step 1000/1000 100%") and "left" not in lines[-1]


def test_the_time_left_counts_what_stands_between_updates() -> None:
    clock = Clock()
    progress = Progress(1000, tokens=1, stream=io.StringIO(), clock=clock)
    assert progress.seconds_left() is None
    _run(progress, clock, 1)
    assert progress.seconds_left() is None, "one update says nothing yet"
    _run(progress, clock, 30, gap=1.0)
    assert progress.seconds_left() == pytest.approx(700 * 0.3)


def test_a_terminal_has_one_line_that_is_rewritten() -> None:
    clock, stream = Clock(), Terminal()
    progress = Progress(50, tokens=4096, stream=stream, clock=clock)
    _run(progress, clock, 3)
    progress.message("checkpoint of step 30")
    _run(progress, clock, 2)
    progress.close()
    text = stream.getvalue()
    screen = [re.split("\r", line)[-1].rstrip() for line in text.split("\n")]
    assert (
        screen[0] == "checkpoint of step 30"
        and screen[1].startswith("step 20/50")
        and screen[2:] == [""]
    )
    assert text.count("\r") == 6 and max(len(part) for part in re.split("[\r\n]", text)) < 200


def test_for_people() -> None:
    assert [duration(s) for s in (0.4, 59.4, 60, 3599, 3600, 86400 * 2 + 3600 * 4 + 5)] == [
        "0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "2 d 4 h",
    ]  # fmt: skip
    assert [quantity(v) for v in (0.5, 950, 48200, 999_600, 1.25e6)] == [
        "0.5",
        "950",
        "48.2k",
        "1000k",
        "1.25M",
    ]
