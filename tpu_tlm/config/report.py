"""Options of the command report."""

from __future__ import annotations

from dataclasses import dataclass

from tpu_tlm.config.options import OptionGroup, opt


@dataclass(frozen=True)
class ReportConfig(OptionGroup):
    """Report."""

    runs: list[str] = opt([], "run directories", positional=True)
    output: str = opt(
        "report.html",
        "HTML file to write; a report that is there is replaced",
        unit="file",
        basic=True,
        also_called=("out", "output_file"),
    )
