"""Fine-tune a model on labelled text: python -m tpu_tlm.finetune --model MODEL --train FILE
--run_dir RUN.

The same command again continues the run.
"""

from __future__ import annotations

import sys

from tpu_tlm.config import cli
from tpu_tlm.config.command_table import COMMANDS
from tpu_tlm.distributed import pid1
from tpu_tlm.errors import UsageError, end_process, outlive_output, run_command


def _option(argv: list[str], name: str) -> tuple[str | None, list[str]]:
    """The value of `--name VALUE` or `--name=VALUE`, and the other arguments."""
    for i, word in enumerate(argv):
        if word == name and i + 1 < len(argv):
            return argv[i + 1], argv[:i] + argv[i + 2 :]
        if word.startswith(f"{name}="):
            return word.partition("=")[2], argv[:i] + argv[i + 1 :]
    return None, argv


def _without_mead_config(argv: list[str]) -> list[str]:
    """The arguments with a mead-train configuration in `--config` replaced by what it says; flags
    win over it, as over any configuration."""
    path, others = _option(argv, "--config")
    index, _ = _option(argv, "--embeddings_index")
    from tpu_tlm.tasks import mead_config

    if path is None or not mead_config.is_mead_file(path):
        if index is not None:
            raise UsageError(
                f"--embeddings_index {index}: acts only with a mead-train configuration as"
                " --config; leave it out"
            )
        return argv
    found = mead_config.read_mead(path, index)
    for note in found.notes:
        print(f"note: {note}")
    return [*mead_config.as_flags(found.values), *others]


def main(argv: list[str] | None = None) -> int:
    """Fine-tune to the last epoch, or until a signal stops the run with everything saved.

    Exit code 0; 143, 130 or 129 after SIGTERM, SIGINT or SIGHUP.
    """
    outlive_output()
    if (code := pid1.run_below(argv)) is not None:
        return code
    argv = _without_mead_config(sys.argv[1:] if argv is None else argv)
    parsed = cli.parse("tpu_tlm.finetune", __doc__ or "", COMMANDS["finetune"].groups, argv)
    from tpu_tlm.devices import select

    runtime = parsed[-1]
    select.prepare(runtime)
    devices = select.connect(runtime)
    print(devices.reason, flush=True)
    from tpu_tlm.tasks.options import FinetuneOptions
    from tpu_tlm.training.finetuning.finetune import finetune

    with devices.peers:
        finetune(FinetuneOptions(*parsed), devices)
    return 0


if __name__ == "__main__":
    end_process(run_command(main))
