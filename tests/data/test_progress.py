"""The progress display: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io

from tpu_tlm.data.progress import ProgressBar, duration, quantity


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_where_there_is_no_terminal() -> None:
    clock, stream = [100.0], io.StringIO()
    bar = ProgressBar(stream, clock=lambda: clock[0])
    bar.start("tokenizing", 40e6, initial=20e6)
    for seconds in range(1, 31):
        clock[0] += 1
        bar.update(20e6 + seconds * 0.5e6)
    bar.message("a note")
    bar.clear()
    times, lines = zip(
        *(line.split(" ", 1) for line in stream.getvalue().splitlines()), strict=True
    )
    assert len(lines) == 4 and lines[-1] == "a note" and times[0].count(":") == 2
    assert lines[0] == "tokenizing: 62% of 40MB, 500kB/s, 30 s left"


def test_a_bar_on_a_terminal_is_removed_at_the_end() -> None:
    stream = _Terminal()
    bar = ProgressBar(stream)
    bar.start("writing shards", 4, " shards")
    bar.update(2)
    bar.message("a note")
    bar.clear()
    text = stream.getvalue()
    assert "writing shards" in text and "a note\n" in text and text.endswith("\r")


def test_readable_numbers() -> None:
    assert [duration(s) for s in (0.4, 59.4, 60, 3599, 3600, 86400 * 2 + 3600 * 4 + 5)] == [
        "0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "2 d 4 h",
    ]  # fmt: skip
    numbers = [quantity(v) for v in (0.5, 950, 48200, 999_600, 1.25e6)]
    assert numbers == ["0.5", "950", "48.2k", "1000k", "1.25M"]
