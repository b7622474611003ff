"""The figures of a campaign as Markdown."""

from __future__ import annotations

from typing import Any


def markdown(results: list[dict[str, Any]]) -> str:
    """Tables of kills and of inputs, the sums, and the faults."""
    killed = [row for row in results if row["compared"]]
    inputs = [row for row in results if not row["compared"]]
    lines = []
    if killed:
        lines += [
            "| trouble | times | inside a save | before training | new interpreter | runs compared"
            " | differences | faults |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {r['what']} | {r['inputs']} | {r['inside']} | {r['early']} | {r['fresh']}"
            f" | {r['compared']} | {r['different']} | {len(r['faults'])} |"
            for r in killed
        ]
        lines.append("")
    if inputs:
        lines += ["| input | inputs | taken | refused | slowest, s | peak, MiB | faults |"]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [_input_row(row) for row in inputs]
        for title, start in (
            ("**all fuzzed**", "fuzzed: "),
            ("**all damaged**", "one byte"),
            ("**all walked**", "every byte"),
        ):
            rows = [row for row in inputs if row["what"].startswith(start)]
            if rows:
                lines.append(_input_row(_sum(title, rows)))
        lines.append("")
    faults = [fault for row in results for fault in row["faults"]]
    minutes = sum(row["seconds"] for row in results) / 60.0
    lines.append(
        f"Faults: {len(faults)}. Processor lanes were busy for {minutes:.0f} minutes in all."
    )
    lines += [f"- {fault}" for fault in faults]
    return "\n".join(lines) + "\n"


def _sum(title: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    total = {"what": title, "faults": [fault for row in rows for fault in row["faults"]]}
    for key in ("inputs", "taken", "refused"):
        total[key] = sum(row[key] for row in rows)
    return total | {key: max(row[key] for row in rows) for key in ("slowest", "peak")}


def _input_row(row: dict[str, Any]) -> str:
    return (
        f"| {row['what'].removeprefix('fuzzed: ')} | {row['inputs']} | {row['taken']}"
        f" | {row['refused']} | {row['slowest']:.1f} | {row['peak'] / 2**20:.0f}"
        f" | {len(row['faults'])} |"
    )
