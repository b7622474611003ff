"""From your own text to a model in one command: python -m tpu_tlm.quickstart --text FILE|DIR.

Learns a vocabulary, makes a dataset, trains a model sized for this machine, this text and
--minutes, fills masks in sentences that were held out, and writes a HuggingFace directory, a loss
curve, report.html and the commands that repeat it.
"""

from __future__ import annotations

from tpu_tlm.config import cli
from tpu_tlm.config.quickstart import QuickstartConfig
from tpu_tlm.distributed import pid1
from tpu_tlm.errors import end_process, run_command


def main(argv: list[str] | None = None) -> int:
    """Make everything, or go on where an interrupted call stopped.

    Exit code 0; 143, 130 or 129 after SIGTERM, SIGINT or SIGHUP.
    """
    if (code := pid1.run_below(argv)) is not None:
        return code
    (config,) = cli.parse("tpu_tlm.quickstart", __doc__ or "", [QuickstartConfig], argv)
    from tpu_tlm.from_text.run import quickstart

    quickstart(config, say=lambda line: print(line, flush=True))
    return 0


if __name__ == "__main__":
    end_process(run_command(main))
