from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from tpu_tlm.errors import TlmError
from tpu_tlm.training.metrics import Metrics
from tpu_tlm.training.report.loss_curve import curve

SVG = "{http://www.w3.org/2000/svg}"


def _run(directory: Path, steps: int) -> Path:
    metrics = Metrics(str(directory / "metrics.jsonl"))
    for step in range(10, steps + 1, 10):
        metrics.write("train", step, {"loss": 4 + 5 * math.exp(-step / 300), "lr": 1e-3})
        if step % 200 == 0:
            metrics.write("valid", step, {"loss": 4.2 + 5 * math.exp(-step / 300)})
    metrics.close()
    return directory


def _curves(path: Path) -> list[list[tuple[float, float]]]:
    """The points of every line of the picture that has more than four."""
    root = ElementTree.parse(path).getroot()
    lines = [e.get("d", "") for e in root.iter(f"{SVG}path") if e.get("d", "").count("L") > 4]
    numbers = [re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", line) for line in lines]
    return [[(float(x), float(y)) for x, y in points] for points in numbers]


def test_a_picture(tmp_path: Path) -> None:
    run, path = _run(tmp_path / "run", 1000), tmp_path / "loss.svg"
    curve(str(run), str(path), lines={"unigram <model>": 6.5})
    texts = {element.text for element in ElementTree.parse(path).getroot().iter(f"{SVG}text")}
    assert {"loss of run", "step", "loss", "unigram <model>, 6.500"} <= texts
    assert {"training, last 4.178", "validation, last 4.378"} <= texts
    points = max(_curves(path), key=len)
    heights = [y for _, y in points]
    assert len(points) > 20 and heights == sorted(heights), "a falling loss goes down"


def test_a_long_run_stays_a_small_file(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", 100_000)
    curve(str(run), str(tmp_path / "c.svg"), title="A title")
    text = (tmp_path / "c.svg").read_text()
    assert len(text) < 160_000 and "A title" in text


def test_one_point_only_and_gaps(tmp_path: Path) -> None:
    metrics = Metrics(str(tmp_path / "metrics.jsonl"))
    metrics.write("valid", 5, {"loss": 3.0})
    metrics.write("valid", 6, {"loss": math.nan})
    metrics.close()
    curve(str(tmp_path), str(tmp_path / "c.svg"))
    text = (tmp_path / "c.svg").read_text()
    assert "validation, last 3.000" in text and "nan" not in text


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(TlmError, match="metrics.jsonl has no figures of loss"):
        curve(str(tmp_path), str(tmp_path / "c.svg"))
