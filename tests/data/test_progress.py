"""The progress display: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io

from tpu_tlm.data.progress import ProgressBar


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
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4 and lines[-1] == "a note"
    assert lines[0] == "tokenizing: 62% of 40.0MB, 500kB/s, 00:30 left"


def test_a_bar_on_a_terminal_is_removed_at_the_end() -> None:
    stream = _Terminal()
    bar = ProgressBar(stream)
    bar.start("writing shards", 4, " shards")
    bar.update(2)
    bar.message("a note")
    bar.clear()
    text = stream.getvalue()
    assert "writing shards" in text and "a note\n" in text and text.endswith("\r")
