from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from examples.loss_curve import curve, ticks
from tpu_tlm.errors import TlmError
from tpu_tlm.training.metrics import Metrics

SVG = "{http://www.w3.org/2000/svg}"


def _run(directory: Path, steps: int) -> Path:
    metrics = Metrics(str(directory / "metrics.jsonl"))
    for step in range(10, steps + 1, 10):
        metrics.write("train", step, {"loss": 4 + 5 * math.exp(-step / 300), "lr": 1e-3})
        if step % 200 == 0:
            metrics.write("valid", step, {"loss": 4.2 + 5 * math.exp(-step / 300)})
    metrics.close()
    return directory


def test_a_picture(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", 1000)
    curve(str(run), str(tmp_path / "loss_curve.svg"), lines={"unigram <model>": 6.5})
    root = ElementTree.parse(tmp_path / "loss_curve.svg").getroot()
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {
        "loss of run",
        "step",
        "loss",
        "200",
        "1000",
        "4",
        "9",
        "unigram <model>, 6.500",
    } <= set(texts)
    assert "training, last 4.178" in texts and "validation, last 4.378" in texts
    assert len(list(root.iter(f"{SVG}circle"))) == 5
    [curve_path] = [e for e in root.iter(f"{SVG}path") if e.get("d", "").count("L") == 99]
    points = [
        tuple(map(float, p.split())) for p in re.split("[ML]", curve_path.get("d", "")) if p.strip()
    ]
    assert len(points) == 100 and all(66 <= x <= 836 and 52 <= y <= 424 for x, y in points)
    assert [y for _, y in points] == sorted(y for _, y in points), (
        "a falling loss goes down the picture"
    )


def test_a_long_run_stays_a_small_file(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", 100_000)
    curve(str(run), str(tmp_path / "c.svg"), title="A title")
    text = (tmp_path / "c.svg").read_text()
    assert len(text) < 120_000 and "A title" in text and ">100k<" in text


def test_one_point_only_and_gaps(tmp_path: Path) -> None:
    metrics = Metrics(str(tmp_path / "metrics.jsonl"))
    metrics.write("valid", 5, {"loss": 3.0})
    metrics.write("valid", 6, {"loss": math.nan})
    metrics.close()
    curve(str(tmp_path), str(tmp_path / "c.svg"))
    assert (
        "validation, last 3.000" in (tmp_path / "c.svg").read_text()
        and "nan" not in (tmp_path / "c.svg").read_text()
    )


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(TlmError, match="metrics.jsonl has no figures of loss"):
        curve(str(tmp_path), str(tmp_path / "c.svg"))


@pytest.mark.parametrize(
    ("low", "high", "about", "want"),
    [
        (0, 1000, 5, [0, 200, 400, 600, 800, 1000]),
        (3.9, 9.1, 5, [4, 6, 8]),
        (0, 1, 4, [0, 0.25, 0.5, 0.75, 1]),
        (-0.3, 0.3, 3, [-0.2, 0, 0.2]),
    ],
)
def test_ticks_are_round(low: float, high: float, about: int, want: list[float]) -> None:
    assert ticks(low, high, about) == want
