"""Show runs on one HTML page: python -m tpu_tlm.report RUN [RUN ...] --output report.html.

Curves of all runs on one picture, their options and what differs, their data and checkpoints. The
page needs no network.
"""

from __future__ import annotations

import sys

from tpu_tlm.config import cli
from tpu_tlm.config.report import ReportConfig
from tpu_tlm.errors import run_command


def main(argv: list[str] | None = None) -> int:
    """Write the page and print its name and size."""
    (config,) = cli.parse("tpu_tlm.report", __doc__ or "", [ReportConfig], argv)
    from tpu_tlm.training.report import write_report

    size = write_report(config.runs, config.output)
    print(f"{config.output}: report of {len(config.runs)} run(s), {size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
