"""The loss curve of a run as an SVG picture, drawn without a plotting library."""

from __future__ import annotations

import math
import os
import posixpath
from collections.abc import Mapping, Sequence
from html import escape

from tpu_tlm import filesystem
from tpu_tlm.errors import TlmError
from tpu_tlm.training.metrics import read_metrics

Points = list[tuple[float, float]]

_WIDTH, _HEIGHT = 860, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 24, 52, 56
_TRAIN, _VALID = "#4269d0", "#e8590c"
_LINES = ("#6b7280", "#2f9e44", "#9c36b5", "#b08900")
_MOST_POINTS = 1500


def curve(
    run_dir: str,
    path: str,
    *,
    metric: str = "loss",
    lines: Mapping[str, float] | None = None,
    title: str | None = None,
) -> None:
    """Draw training and validation `metric` over the steps of a run's metrics.jsonl into the SVG file `path`.

    lines: name -> height of horizontal lines to compare with ("unigram model": 6.5). TlmError when the run has no figures.
    """
    source = posixpath.join(run_dir, "metrics.jsonl")
    records = read_metrics(source)
    train, valid = (_points(records, kind, metric) for kind in ("train", "valid"))
    if not train and not valid:
        raise TlmError(
            f"{source} has no figures of {metric}: train at least one call of steps first"
        )
    text = draw(
        train,
        valid,
        dict(lines or {}),
        title or f"{metric} of {os.path.basename(run_dir.rstrip('/'))}",
        metric,
    )
    filesystem.write_bytes(path, text.encode())


def _points(records: Sequence[Mapping[str, object]], kind: str, metric: str) -> Points:
    points: Points = []
    for record in records:
        step, value = record["step"], record.get(metric)
        if record["kind"] == kind and isinstance(step, int) and isinstance(value, int | float):
            points.append((float(step), float(value)))
    return sorted(points)


def _thinned(points: Points) -> Points:
    """At most _MOST_POINTS points: means over runs of neighbours, the last one kept as it is."""
    size = -(-len(points) // _MOST_POINTS)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from `low` to `high` (both included where they are round), about so many."""
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(
        power * nice for nice in (1.0, 2.0, 2.5, 5.0, 10.0) if power * nice >= raw * (1 - 1e-9)
    )
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _label(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


class _Scale:
    """Data -> picture coordinates."""

    def __init__(self, steps: Sequence[float], values: Sequence[float]) -> None:
        self.x0, self.x1 = min(0.0, *steps), max(steps)
        low, high = min(values), max(values)
        margin = 0.05 * (high - low) or 0.5
        self.y0, self.y1 = low - margin, high + margin
        if self.x1 <= self.x0:
            self.x1 = self.x0 + 1.0

    def x(self, step: float) -> float:
        return _LEFT + (step - self.x0) / (self.x1 - self.x0) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _TOP + (self.y1 - value) / (self.y1 - self.y0) * (_HEIGHT - _TOP - _BOTTOM)

    def path(self, points: Points) -> str:
        return "M" + " L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)


def _text(x: float, y: float, text: str, **attributes: str) -> str:
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(text)}</text>'


def _axes(scale: _Scale, metric: str) -> list[str]:
    out: list[str] = []
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for value in ticks(scale.y0, scale.y1, 7):
        y = scale.y(value)
        out.append(f'<path d="M{_LEFT} {y:.1f} H{right}" stroke="#e5e7eb"/>')
        out.append(_text(_LEFT - 8, y + 4, _label(value), text_anchor="end"))
    for step in ticks(scale.x0, scale.x1, 8):
        if step != int(step):
            continue
        x = scale.x(step)
        out.append(f'<path d="M{x:.1f} {bottom} v5" stroke="#6b7280"/>')
        out.append(_text(x, bottom + 20, _label(step), text_anchor="middle"))
    out.append(f'<path d="M{_LEFT} {_TOP} V{bottom} H{right}" stroke="#6b7280" fill="none"/>')
    out.append(_text((_LEFT + right) / 2, _HEIGHT - 14, "step", text_anchor="middle"))
    middle = (_TOP + bottom) / 2
    out.append(
        _text(18, middle, metric, text_anchor="middle", transform=f"rotate(-90 18 {middle:.1f})")
    )
    return out


def draw(train: Points, valid: Points, lines: Mapping[str, float], title: str, metric: str) -> str:
    """The SVG text: training as a line, validation as a line with dots, `lines` dashed, and a legend with the last values."""
    train = _thinned(train)
    scale = _Scale(
        [x for x, _ in train + valid], [y for _, y in train + valid] + list(lines.values())
    )
    body = _axes(scale, metric)
    legend: list[tuple[str, str, str]] = []
    if train:
        body.append(
            f'<path d="{scale.path(train)}" stroke="{_TRAIN}" stroke-width="1.6" fill="none" stroke-linejoin="round"/>'
        )
        legend.append((f"training, last {train[-1][1]:.3f}", _TRAIN, ""))
    if valid:
        body.append(
            f'<path d="{scale.path(valid)}" stroke="{_VALID}" stroke-width="1.6" fill="none" stroke-linejoin="round"/>'
        )
        body += [
            f'<circle cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="3" fill="{_VALID}"/>'
            for x, y in valid
        ]
        legend.append((f"validation, last {valid[-1][1]:.3f}", _VALID, ""))
    for i, (name, value) in enumerate(lines.items()):
        color = _LINES[i % len(_LINES)]
        body.append(
            f'<path d="M{_LEFT} {scale.y(value):.1f} H{_WIDTH - _RIGHT}" stroke="{color}" stroke-width="1.4" stroke-dasharray="7 5"/>'
        )
        legend.append((f"{name}, {value:.3f}", color, "7 5"))
    # Losses fall, so the upper right is the corner that is free.
    width = 44 + 7.2 * max(len(label) for label, _, _ in legend)
    x, y = _WIDTH - _RIGHT - width - 8, _TOP + 8
    body.append(
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{20 * len(legend) + 10}" fill="#fff" fill-opacity="0.85" stroke="#e5e7eb"/>'
    )
    for i, (label, color, dashes) in enumerate(legend):
        row = y + 19 + 20 * i
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        body.append(
            f'<path d="M{x + 8:.1f} {row - 4} h22" stroke="{color}" stroke-width="2"{dash}/>'
        )
        body.append(_text(x + 37, row, label))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    style = 'font-family="system-ui, sans-serif" font-size="12.5" fill="#374151"'
    top = [f"{head} {style}>", f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>']
    top.append(_text(_LEFT, 30, title, font_size="16", font_weight="600", fill="#111827"))
    return "\n".join([*top, *body, "</svg>"]) + "\n"
