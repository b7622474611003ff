"""The command that fine-tunes a model on labelled text: python -m tpu_tlm.finetune --task classify
--model MODEL --train FILE --run_dir RUN. The same command again continues."""

from __future__ import annotations

import sys

from tpu_tlm.config import cli
from tpu_tlm.config.finetune import FinetuneConfig, FitConfig, HeadConfig, TaskDataConfig
from tpu_tlm.config.training import RuntimeConfig
from tpu_tlm.distributed import pid1
from tpu_tlm.errors import run_command

CLASSES = (FinetuneConfig, TaskDataConfig, HeadConfig, FitConfig, RuntimeConfig)


def main(argv: list[str] | None = None) -> int:
    """Fine-tune to the last epoch, or until a signal asks to stop (exit code 143)."""
    if (code := pid1.run_below(argv)) is not None:
        return code
    parsed = cli.parse("tpu_tlm.finetune", __doc__ or "", CLASSES, argv)
    from tpu_tlm.devices import select

    runtime = parsed[-1]
    select.prepare(runtime)
    devices = select.connect(runtime)
    print(devices.reason, flush=True)
    from tpu_tlm.tasks.finetune import finetune
    from tpu_tlm.tasks.options import FinetuneOptions

    with devices.team:
        finetune(FinetuneOptions(*parsed), devices)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
