"""The HTML page of a report: tables as text, curves as data that its script draws."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from tpu_tlm import __version__
from tpu_tlm.config import Config
from tpu_tlm.config.options import options_of
from tpu_tlm.data.progress import duration
from tpu_tlm.training.report.browser import SCRIPT, STYLE
from tpu_tlm.training.report.collect import RunData
from tpu_tlm.training.report.examples import examples
from tpu_tlm.training.report.history import MAX_METRICS

MARK = "<!doctype html><!-- tpu_tlm report -->"

_MISSING = object()
# Parts of the names of the metrics that are drawn before anything is chosen.
_SHOWN = ("loss", "accuracy", "recall@1", "mrr", "lr", "tokens_per_second", "input_wait")


def page(runs: Sequence[RunData]) -> bytes:
    """The whole page: HTML in UTF-8 that refers to nothing outside it.

    Every text from a file is escaped, and the content security policy lets no script run but ours.
    """
    title = ", ".join(run.name for run in runs)
    body = [
        f"<h1>Training report: {escape(title)}</h1>",
        f"<p>Written {_now()} by tpu_tlm {escape(__version__)}.</p>",
        "<h2>Runs</h2>",
        _overview(runs),
        "<h2>Curves</h2>",
        _CONTROLS,
        *_differences(runs),
        "<h2>Configuration</h2>",
        *(_configuration(run) for run in runs),
        "<h2>Data</h2>",
        _data(runs),
        "<h2>Checkpoints</h2>",
        _checkpoints(runs),
        *examples(runs),
    ]
    text = "\n".join(
        [
            MARK,
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">',
            '<meta name="viewport" content="width=device-width">',
            '<link rel="icon" href="data:,">',
            f"<title>{escape(title)}: training report</title>",
            f"<style>{STYLE}</style></head><body>",
            *body,
            f'<script type="application/json" id="data">{_json(curves(runs))}</script>',
            f"<script>{SCRIPT}</script></body></html>\n",
        ]
    )
    # A path may hold bytes that are not UTF-8.
    return text.encode("utf-8", "backslashreplace")


_CONTROLS = """\
<form id="controls" autocomplete="off">
<fieldset id="runs"><legend>Runs</legend></fieldset>
<fieldset id="metrics"><legend>Metrics</legend></fieldset>
<fieldset><legend>Axes</legend>
<label>over <select id="x"><option value="0">steps</option><option value="1">time</option></select>
</label> <label><input type="checkbox" id="log"> logarithmic values</label>
<label>smoothing of training <select id="smooth"><option value="0">none</option>
<option value="0.9">10 points</option><option value="0.98">50 points</option></select></label>
</fieldset>
</form>
<p>Training: solid lines; validation: dashed lines with dots. Time is that of training, without the
pauses of a continued run. Long runs are drawn by averages of successive records.</p>
<div id="plots"></div>
<noscript><p>The curves need JavaScript; nothing is loaded from a network.</p></noscript>"""


def curves(runs: Sequence[RunData]) -> dict[str, Any]:
    """What the script draws, as JSON values.

    `metrics`: names in order, each with whether it is shown at first; `runs`: names with their
    curves, each a metric, a kind of record, and three lists: steps, seconds, values.
    """
    names = dict.fromkeys(name for run in runs for name, _ in run.history.curves)
    order = sorted(names, key=_rank)
    return {
        "metrics": [{"name": name, "shown": _rank(name) < len(_SHOWN)} for name in order],
        "runs": [
            {
                "name": run.name,
                "curves": [
                    {
                        "metric": name,
                        "kind": kind,
                        "x": [
                            [point.step for point in curve.points],
                            [round(point.seconds, 2) for point in curve.points],
                        ],
                        "y": [float(f"{point.value:.6g}") for point in curve.points],
                    }
                    for (name, kind), curve in run.history.curves.items()
                ],
            }
            for run in runs
        ],
    }


def _rank(metric: str) -> int:
    """Place of a metric: the losses, accuracies, learning rate and speeds first."""
    if metric in _SHOWN:
        return _SHOWN.index(metric)
    return 1 if metric.endswith("accuracy") else len(_SHOWN)


def _json(value: Any) -> str:
    """JSON that cannot end the script element in which it stands."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _policy() -> str:
    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest(STYLE)}'; "
        f"script-src 'sha256-{digest(SCRIPT)}'; base-uri 'none'; form-action 'none'"
    )


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table of texts and numbers, all escaped; the first cell of a row is its heading."""
    lines = [f"<tr>{''.join(f'<th scope=col>{escape(cell)}</th>' for cell in head)}</tr>"]
    for first, *rest in rows:
        cells = "".join(f"<td>{escape(_shown(cell))}</td>" for cell in rest)
        lines.append(f"<tr><th scope=row>{escape(_shown(first))}</th>{cells}</tr>")
    return "<div class=scroll><table>" + "\n".join(lines) + "</table></div>"


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return " ".join(map(_shown, value)) or "none"
    return str(value)


def _overview(runs: Sequence[RunData]) -> str:
    head = (
        "run",
        "objective",
        "steps",
        "training loss",
        "validation loss",
        "lowest validation loss",
        "tokens/s",
        "input wait",
        "time",
    )
    left_out = [
        f"<p>{escape(run.name)}: {len(run.history.left_out)} metrics after the first {MAX_METRICS}"
        " are left out.</p>"
        for run in runs
        if run.history.left_out
    ]
    return _table(head, map(_overview_row, runs)) + "".join(left_out)


def _overview_row(run: RunData) -> list[Any]:
    def latest(name: str, kind: str = "train") -> Any:
        return run.history.latest.get((name, kind), "")

    best, wait, speed = run.history.best, latest("input_wait"), latest("tokens_per_second")
    return [
        run.name,
        run.options.get("objective", ""),
        f"{run.history.step:,}",
        latest("loss"),
        latest("loss", "valid"),
        "" if best is None else f"{best[0]:.6g} (step {best[1]:,})",
        speed and f"{speed:,.0f}",
        f"{100 * wait:.1f} %" if wait != "" else "",
        duration(run.history.seconds) if math.isfinite(run.history.seconds) else "",
    ]


def _differences(runs: Sequence[RunData]) -> list[str]:
    """The options in which the runs differ, for two runs or more."""
    if len(runs) < 2:
        return []
    names = dict.fromkeys(name for run in runs for name in run.options)
    rows = []
    for name in names:
        values = [run.options.get(name, _MISSING) for run in runs]
        if any(value != values[0] for value in values):
            rows.append([name, *("" if value is _MISSING else value for value in values)])
    title = "<h2>Differences between the runs</h2>"
    if not rows:
        return [title, "<p>All options are the same.</p>"]
    return [title, _table(["option", *(run.name for run in runs)], rows)]


def _configuration(run: RunData) -> str:
    """The options that are not at their defaults, and all of them on request."""
    table = options_of(Config.groups())
    changed = [
        [name, value, table[name].default if name in table else ""]
        for name, value in run.options.items()
        if name not in table or value != table[name].default
    ]
    everything = _table(["option", "value"], run.options.items())
    return (
        f"<h3>{escape(run.name)}</h3>"
        + _table(["option", "value", "default"], changed)
        + f"<details><summary>All {len(run.options)} options</summary>{everything}</details>"
    )


def _data(runs: Sequence[RunData]) -> str:
    summaries = [(run, summary) for run in runs for summary in run.data]
    facts = dict.fromkeys(name for _, summary in summaries for name in summary.facts)

    def cells(facts_of: Mapping[str, str]) -> list[str]:
        return [facts_of.get(name, "") for name in facts]

    problems = any(summary.problem for _, summary in summaries)
    return _table(
        ["run", "data", "directory", *facts, *(["problem"] if problems else [])],
        [
            [run.name, s.role, s.path, *cells(s.facts), *([s.problem] if problems else [])]
            for run, s in summaries
        ],
    )


def _checkpoints(runs: Sequence[RunData]) -> str:
    return _table(
        ["run", "step", "validation loss", "MB", "directory"],
        [
            [
                run.name,
                f"{saved.step:,}",
                "" if (loss := run.history.at("loss", "valid", saved.step)) is None else loss,
                f"{saved.size / 1e6:,.1f}",
                saved.path,
            ]
            for run in runs
            for saved in run.checkpoints
        ],
    )
