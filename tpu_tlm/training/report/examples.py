"""The examples of a report: the same masked tokens, guessed at several steps of a run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from tpu_tlm.training.report.collect import RunData

# Steps that are shown of a run: the first, the last and some between.
_STEPS = 6


def examples(runs: Sequence[RunData]) -> list[str]:
    """A table per run that has samples: a row per text, a column per step."""
    with_samples = [run for run in runs if run.samples]
    if not with_samples:
        return []
    parts = ["<h2>Examples</h2>", "<p>The most probable tokens, in the same texts, by step.</p>"]
    for run in with_samples:
        parts += [f"<h3>{escape(run.name)}</h3>", _table(_shown(run.samples))]
    return parts


def _shown(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some of the records, evenly spread."""
    count = min(_STEPS, len(records))
    if count == 1:
        return [records[-1]]
    places = sorted({round(i * (len(records) - 1) / (count - 1)) for i in range(count)})
    return [records[place] for place in places]


def _table(records: Sequence[dict[str, Any]]) -> str:
    steps = "".join(f"<th scope=col>step {record['step']:,}</th>" for record in records)
    lines = [f"<tr><th scope=col>text</th><th scope=col>token</th>{steps}</tr>"]
    # A continued run with other --samples asks other questions.
    for number, last in enumerate(records[-1]["samples"]):
        cells = []
        for record in records:
            asked = record["samples"]
            same = number < len(asked) and asked[number]["text"] == last["text"]
            cells.append(_guesses(asked[number]) if same else "")
        columns = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(
            f"<tr><th scope=row>{escape(last['text'])}</th><td>{escape(last['gold'])}</td>"
            f"{columns}</tr>"
        )
    return '<div class=scroll><table class="examples">' + "\n".join(lines) + "</table></div>"


def _guesses(sample: dict[str, Any]) -> str:
    """Guesses with their probabilities; the right one is bold."""
    told = []
    for token, share in sample["guesses"]:
        text = f"{escape(token)} {share:.2f}"
        told.append(f"<b>{text}</b>" if token == sample["gold"] else text)
    return "<br>".join(told)
