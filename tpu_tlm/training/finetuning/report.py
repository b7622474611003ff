"""The report of a run as one HTML page without any other file."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem;
color:#1d2733;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #d5dce4}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.25rem .6rem;text-align:right;
border-bottom:1px solid #e6ebf0;vertical-align:top}td.t,th.t{text-align:left}
svg{max-width:100%;height:auto}.big{font-size:2rem;font-weight:600}.row{display:flex;gap:2.5rem;
flex-wrap:wrap}small{color:#5b6a7a}td.t{overflow-wrap:anywhere}
"""
_BLUE, _ORANGE, _GRID = "#2563a8", "#c2571a", "#d5dce4"
# Classes that a picture shows at most.
_MOST = 40
_TEXT = 400


def _number(value: Any, digits: int = 4) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def _text(value: Any) -> str:
    shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return html.escape(shown if len(shown) <= _TEXT else shown[:_TEXT] + "...")


def _svg(width: int, height: int, body: Sequence[str], title: str) -> str:
    return (
        f'<svg role="img" aria-label="{html.escape(title)}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="system-ui,sans-serif" font-size="11">'
        f"{''.join(body)}</svg>"
    )


def _label(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def curve(title: str, series: dict[str, list[float | None]]) -> str:
    """A line per series over the epochs 1, 2, ..."""
    width, height, left, bottom = 420, 230, 52, 34
    points = [v for values in series.values() for v in values if v is not None]
    if not points:
        return ""
    low, high = min(points), max(points)
    if high == low:
        low, high = low - 0.5, high + 0.5
    count = max(len(values) for values in series.values())

    def x(i: int) -> float:
        return left + (width - left - 14) * (i / max(count - 1, 1) if count > 1 else 0.5)

    def y(v: float) -> float:
        return 26 + (height - bottom - 26) * (1 - (v - low) / (high - low))

    body = [_label(width / 2, 14, title)]
    for part in range(5):
        v = low + (high - low) * part / 4
        body.append(
            f'<line x1="{left}" x2="{width - 14}" y1="{y(v):.1f}" y2="{y(v):.1f}" '
            f'stroke="{_GRID}"/>' + _label(left - 6, y(v) + 4, f"{v:.3g}", "end")
        )
    for i in range(0, count, max(1, count // 10)):
        body.append(_label(x(i), height - bottom + 16, str(i + 1)))
    body.append(_label(width / 2, height - 4, "epoch"))
    for number, (name, values) in enumerate(series.items()):
        color = (_BLUE, _ORANGE)[number % 2]
        line = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(values) if v is not None)
        body.append(f'<polyline fill="none" stroke="{color}" stroke-width="2" points="{line}"/>')
        body += [
            f'<circle cx="{x(i):.1f}" cy="{y(v):.1f}" r="3" fill="{color}">'
            f"<title>epoch {i + 1}: {v:.4f}</title></circle>"
            for i, v in enumerate(values)
            if v is not None
        ]
        if len(series) > 1:
            body.append(
                f'<text x="{width - 16}" y="{40 + 14 * number}" text-anchor="end" '
                f'fill="{color}">{html.escape(name)}</text>'
            )
    return _svg(width, height, body, title)


def matrix(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A confusion matrix, shaded by the share of the gold label."""
    n = len(labels)
    if not n or n > _MOST:
        return f"<p><small>{n} labels: the matrix is in report.json</small></p>" if n else ""
    cell = max(16, min(56, 560 // n))
    left = min(200, 14 + 7 * max(len(label) for label in labels))
    size = left + n * cell + 10
    body = [_label(left + n * cell / 2, 12, "guess"), _label(left - 8, 12, "gold", "end")]
    for i, label in enumerate(labels):
        body.append(_label(left - 6, 42 + cell * (i + 0.6), label[:28], "end"))
        if n <= 12:
            body.append(_label(left + cell * (i + 0.5), 32, label[: max(3, cell // 7)]))
        total = sum(counts[i]) or 1
        for j, count in enumerate(counts[i]):
            share = count / total
            color = "#2563a8" if i == j else "#c2571a"
            x, y = left + j * cell, 40 + i * cell
            body.append(
                f'<rect x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" fill="{color}" '
                f'fill-opacity="{0.06 + 0.86 * share:.3f}"><title>'
                f"{html.escape(f'{label} as {labels[j]}: {count}')}</title></rect>"
            )
            if cell >= 28 and count:
                ink = "#fff" if share > 0.5 else "#1d2733"
                body.append(
                    f'<text x="{x + cell / 2:.1f}" y="{y + cell / 2 + 4:.1f}" '
                    f'text-anchor="middle" fill="{ink}">{count}</text>'
                )
    return _svg(size, 50 + n * cell, body, "confusion matrix")


def bars(rows: Sequence[dict[str, Any]]) -> str:
    """A bar per class: its F1."""
    shown = sorted(rows, key=lambda row: -row["count"])[:_MOST]
    if not shown:
        return ""
    left = min(220, 20 + 7 * max(len(str(row["label"])) for row in shown))
    body = []
    for i, row in enumerate(shown):
        y, width = 6 + 22 * i, 320 * row["f1"]
        body.append(_label(left - 6, y + 13, str(row["label"])[:30], "end"))
        body.append(
            f'<rect x="{left}" y="{y}" width="320" height="16" fill="#eef2f6"/>'
            f'<rect x="{left}" y="{y}" width="{width:.1f}" height="16" fill="{_BLUE}"/>'
        )
        text = f"F1 {row['f1']:.3f}  P {row['precision']:.3f}  R {row['recall']:.3f}"
        body.append(_label(left + 328, y + 13, f"{text}  n {row['count']}", "start"))
    return _svg(left + 560, 12 + 22 * len(shown), body, "F1 of each class")


def reliability(bins: Sequence[dict[str, float]]) -> str:
    """Share of right guesses over their probability; the diagonal is perfect calibration."""
    size, left = 260, 40
    span = size - left - 14

    def at(x: float, y: float) -> tuple[float, float]:
        return left + span * x, 14 + span * (1 - y)

    (x0, y0), (x1, y1) = at(0, 0), at(1, 1)
    body = [
        f'<rect x="{x0}" y="{y1}" width="{span}" height="{span}" fill="none" stroke="{_GRID}"/>',
        f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="{_GRID}" stroke-dasharray="4"/>',
    ]
    most = max((row["count"] for row in bins), default=1)
    for row in bins:
        x, y = at(row["confidence"], row["accuracy"])
        radius = 3 + 6 * (row["count"] / most) ** 0.5
        body.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{_BLUE}" '
            f'fill-opacity=".75"><title>{row["count"]} guesses: probability '
            f"{row['confidence']:.3f}, right {row['accuracy']:.3f}</title></circle>"
        )
    for v in (0.0, 0.5, 1.0):
        body.append(_label(at(v, 0)[0], y0 + 14, f"{v:g}"))
        body.append(_label(x0 - 5, at(0, v)[1] + 4, f"{v:g}", "end"))
    body.append(_label(left + span / 2, size - 2, "probability of the guess"))
    return _svg(size, size, body, "calibration")


def _table(rows: Sequence[Sequence[str]], head: Sequence[str], left: int = 1) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return (
            "<tr>"
            + "".join(
                f"<{tag}{' class=t' if i < left else ''}>{cell}</{tag}>"
                for i, cell in enumerate(cells)
            )
            + "</tr>"
        )

    return f"<table>{line('th', head)}{''.join(line('td', row) for row in rows)}</table>"


def _split(name: str, found: dict[str, Any], labels: Sequence[str]) -> str:
    parts = [f"<h2>{name}: {found['examples']:,} examples</h2>"]
    parts.append(
        _table(
            [[html.escape(k), _number(v)] for k, v in found["metrics"].items()], ["metric", "value"]
        )
    )
    if interval := found.get("interval"):
        low, high = interval["low_high"]
        parts.append(
            f"<p><small>95 % of {interval['resamples']:,} bootstrap samples have "
            f"{html.escape(interval['metric'])} from {_number(low)} to {_number(high)}</small></p>"
        )
    if found["per_class"]:
        parts.append(f"<h3>Classes</h3>{bars(found['per_class'])}")
    pictures = []
    if found["confusion"]:
        pictures.append(f"<div><h3>Confusion matrix</h3>{matrix(labels, found['confusion'])}</div>")
    if calibration := found.get("calibration"):
        pictures.append(
            f"<div><h3>Calibration</h3>{reliability(calibration['bins'])}"
            f"<br><small>expected error {_number(calibration['expected_error'])}</small></div>"
        )
    if pictures:
        parts.append(f'<div class="row">{"".join(pictures)}</div>')
    if found["most_wrong"]:
        rows = [
            [
                _text(row["text"]) + (f"<br>{_text(row['text2'])}" if "text2" in row else ""),
                _text(row["gold"]),
                _text(row["guess"]),
                _number(row["wrong"], 3),
            ]
            for row in found["most_wrong"]
        ]
        parts.append("<h3>Most wrong</h3>" + _table(rows, ["text", "gold", "guess", "wrong by"], 3))
    return "".join(parts)


def page(report: dict[str, Any]) -> str:
    """HTML of a report's JSON values: curves, classes, confusion, calibration, errors."""
    metric, epochs = report["metric"], report["epochs"]
    best = epochs[report["best_epoch"] - 1]["valid"].get(metric) if report["best_epoch"] else None
    shown = report.get("test", report["valid"])
    curves = curve("training loss", {"loss": [e["train_loss"] for e in epochs]}) + curve(
        f"validation {metric}", {metric: [e["valid"].get(metric) for e in epochs]}
    )
    settings = _table(
        [[html.escape(k), _text(v)] for k, v in report["settings"].items()], ["setting", "value"], 2
    )
    splits = _split("Test", report["test"], report["labels"]) if "test" in report else ""
    splits += _split("Validation", report["valid"], report["labels"])
    name = "test" if "test" in report else "validation"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(report['task'])} report</title><style>{_STYLE}</style></head><body>"
        f"<h1>Fine-tuning: {html.escape(report['task'])}</h1>"
        f'<p><span class="big">{_number(shown["metrics"].get(metric))}</span> '
        f"{html.escape(metric)} on {name} data; best epoch {report['best_epoch']} of {len(epochs)} "
        f"(validation {_number(best)})</p>"
        f'<div class="row">{curves}</div>{splits}<h2>Settings</h2>{settings}</body></html>'
    )
