"""The report's page: self-contained, escaped, complete, and drawn by a real browser."""

from __future__ import annotations

import html.parser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tpu_tlm.training.finetuning.report import page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


def report(labels: list[str], epochs: int = 3) -> dict[str, Any]:
    n = len(labels)
    wrong = {
        "line": 2,
        "text": "<script>alert('x')</script> & more",
        "gold": labels[0],
        "guess": labels[1],
        "probability": 0.9,
        "wrong": 0.97,
    }
    split = {
        "examples": 200,
        "metrics": {"accuracy": 0.81, "auc": None},
        "per_class": [
            {"label": label, "precision": 0.8, "recall": 0.7, "f1": 0.75, "count": 10 + i}
            for i, label in enumerate(labels)
        ],
        "confusion": [[50 if i == j else 3 for j in range(n)] for i in range(n)],
        "calibration": {
            "bins": [
                {"confidence": 0.55, "accuracy": 0.6, "count": 9},
                {"confidence": 0.95, "accuracy": 0.9, "count": 90},
            ],
            "expected_error": 0.04,
        },
        "most_wrong": [wrong],
        "interval": {"metric": "accuracy", "low_high": [0.75, 0.86], "resamples": 1000},
    }
    return {
        "task": "classify",
        "labels": labels,
        "metric": "accuracy",
        "best_epoch": 2,
        "settings": {"model": "minilm", "lr": 5e-5},
        "epochs": [
            {
                "epoch": i + 1,
                "step": 10,
                "train_loss": 0.7 - 0.1 * i,
                "valid": {"accuracy": 0.6 + 0.05 * i},
                "texts_per_second": 1.0,
            }
            for i in range(epochs)
        ],
        "valid": {k: v for k, v in split.items() if k != "interval"},
        "test": split,
    }


class Balance(html.parser.HTMLParser):
    """Every tag that is opened is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("labels", [["neg", "pos"], [f"class {i}" for i in range(60)]])
def test_the_page_is_self_contained_and_escaped(labels: list[str]) -> None:
    text = page(report(labels))
    parser = Balance()
    parser.feed(text)
    assert not parser.open and "script" not in parser.seen
    assert not re.search(r"https?://|src=|url\(|@import", text)
    assert "&lt;script&gt;" in text and "0.8100" in text and "n/a" in text
    assert parser.seen.count("svg") >= (8 if len(labels) == 2 else 6)


def test_one_epoch_and_no_test_data() -> None:
    found = report(["a", "b"], epochs=1)
    del found["test"]
    found["best_epoch"] = 1
    assert "validation data" in page(found)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium (Debian: apt-get install chromium)")
def test_a_browser_draws_it_without_a_network(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page(report(["neg", "pos", "neutral"])))
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path}/profile",
        "--window-size=1100,2400",
        f"--screenshot={tmp_path}/report.png",
        f"file://{tmp_path}/report.html",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (tmp_path / "report.png").exists(), done.stderr[-2000:]
    image = pytest.importorskip("PIL.Image").open(tmp_path / "report.png").convert("RGB")
    colors = {color: count for count, color in image.getcolors(1 << 24)}
    # The blue of bars and curves is drawn, and dark text on a white page.
    assert colors.get((0x25, 0x63, 0xA8), 0) > 2000
    assert colors.get((255, 255, 255), 0) > 0.5 * image.width * image.height
