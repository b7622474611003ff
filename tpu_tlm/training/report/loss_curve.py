"""The loss curve of a run as an SVG picture, drawn by matplotlib."""

from __future__ import annotations

import io
import math
import os
import posixpath
from collections.abc import Mapping, Sequence

from tpu_tlm import filesystem
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.training.metrics import read_metrics

Points = list[tuple[float, float]]

_MOST_POINTS = 1500
_TRAIN, _VALID = "#4269d0", "#e8590c"
_LINES = ("#6b7280", "#2f9e44", "#9c36b5", "#b08900")


def curve(
    run_dir: str,
    path: str,
    *,
    metric: str = "loss",
    lines: Mapping[str, float] | None = None,
    title: str | None = None,
) -> None:
    """Draw the training and validation `metric` of a run over its steps into an SVG file.

    lines: name -> height of horizontal lines to compare with ("unigram model": 6.5). Raises
    `TlmError` when metrics.jsonl has no such figures, `UsageError` when matplotlib is missing.
    """
    source = posixpath.join(run_dir, "metrics.jsonl")
    records = read_metrics(source)
    train, valid = (_points(records, kind, metric) for kind in ("train", "valid"))
    if not train and not valid:
        raise TlmError(
            f"{source} has no figures of {metric}: train at least one call of steps first"
        )
    title = title or f"{metric} of {os.path.basename(run_dir.rstrip('/'))}"
    filesystem.write_bytes(path, draw(train, valid, dict(lines or {}), title, metric))


def draw(
    train: Points, valid: Points, lines: Mapping[str, float], title: str, metric: str
) -> bytes:
    """The picture as the bytes of an SVG file, text kept as text."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError("loss curves need matplotlib: pip install matplotlib") from None
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tpu_tlm"}):
        figure = Figure(figsize=(8.6, 4.8), layout="constrained")
        axes = figure.add_subplot()
        if train:
            steps, values = zip(*_thinned(train), strict=True)
            axes.plot(steps, values, color=_TRAIN, label=f"training, last {train[-1][1]:.3f}")
        if valid:
            steps, values = zip(*valid, strict=True)
            label = f"validation, last {valid[-1][1]:.3f}"
            axes.plot(steps, values, color=_VALID, marker="o", markersize=4, label=label)
        for i, (name, height) in enumerate(lines.items()):
            color = _LINES[i % len(_LINES)]
            axes.axhline(height, color=color, linestyle="--", label=f"{name}, {height:.3f}")
        axes.set(title=title, xlabel="step", ylabel=metric)
        axes.grid(alpha=0.3)
        axes.legend()
        stream = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    return stream.getvalue()


def _points(records: Sequence[Mapping[str, object]], kind: str, metric: str) -> Points:
    points: Points = []
    for record in records:
        step, value = record["step"], record.get(metric)
        if record["kind"] != kind or not isinstance(step, int):
            continue
        if isinstance(value, int | float) and math.isfinite(value):
            points.append((float(step), float(value)))
    return sorted(points)


def _thinned(points: Points) -> Points:
    """At most `_MOST_POINTS` points: means over consecutive groups."""
    size = -(-len(points) // _MOST_POINTS)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
