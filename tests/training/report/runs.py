"""Run directories for the tests of reports, written without training."""

from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tpu_tlm.config import Config, cli


def make_run(path: Path, records: list[dict[str, Any]], **options: Any) -> Path:
    """A run directory with options and metrics, and checkpoints of steps 10 and 20."""
    path.mkdir(parents=True)
    config = Config(**{"train_dir": "data/train", "run_dir": str(path), **options})
    (path / "config.yaml").write_text(cli.dump(*config.parts()), encoding="utf-8")
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    for step in (10, 20):
        checkpoint = path / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "manifest.json").write_text("{}")
        (checkpoint / "variables.data").write_bytes(bytes(3_000_000))
    (path / "checkpoints" / "step-00000030").mkdir()  # not complete
    return path


def records(start: float = 4.0, steps: int = 20) -> list[dict[str, Any]]:
    """Training records of every step, 2 seconds each, and validation at steps 10 and 20."""
    found = []
    for step in range(1, steps + 1):
        train: dict[str, Any] = {"step": step, "kind": "train", "time": 1e9 + 2 * step}
        train |= {"loss": start - step / 10, "accuracy": step / 100, "lr": 1e-3 / step}
        if step > 1:
            train |= {"step_time": 2.0, "tokens_per_second": 1234.0, "input_wait": 0.05}
        found.append(train)
        if step % 10 == 0:
            loss = start + 0.5 - step / 10
            found.append({"step": step, "kind": "valid", "time": 1e9 + 2 * step, "loss": loss})
    return found


class Page(HTMLParser):
    """A parsed page: texts of headings and cells by table, the data, the elements."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._heading, self._open, self._text = "", "", ""
        self.text = raw.decode()
        self.feed(self.text)
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', self.text)
        assert found
        self.data = json.loads(found[1])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.tables.setdefault(self._heading, []).append([])
        if tag in ("th", "td", "h2"):
            self._open, self._text = tag, ""

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag != self._open:
            return
        if tag == "h2":
            self._heading = unescape(self._text)
        else:
            self.tables[self._heading][-1].append(self._text)
        self._open = ""

    def row(self, heading: str, first: str) -> dict[str, str]:
        """The row of a table that starts with this cell, by the table's head."""
        head, *rows = self.tables[heading]
        return next(dict(zip(head, row, strict=True)) for row in rows if row[0] == first)
