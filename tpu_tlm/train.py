"""Pre-train a model: python -m tpu_tlm.train --train_dir DIR --run_dir RUN.

The same command again continues the run.
"""

from __future__ import annotations

from tpu_tlm.config import Config, cli
from tpu_tlm.distributed import pid1
from tpu_tlm.errors import end_process, outlive_output, run_command
from tpu_tlm.planning.launch import values
from tpu_tlm.training import train
from tpu_tlm.training.next_steps import next_steps


def main(argv: list[str] | None = None) -> int:
    """Train to the last step, or until a signal stops the run with everything saved.

    Exit code 0; 143, 130 or 129 after SIGTERM, SIGINT or SIGHUP.
    """
    outlive_output()
    if (code := pid1.run_below(argv)) is not None:
        return code
    config = Config(*cli.parse("tpu_tlm.train", __doc__ or "", Config.groups(), argv))
    result = train(config, planner=values)
    print(result.summary)
    if result.made:
        print("\n".join(next_steps(config)))
    return 0


if __name__ == "__main__":
    end_process(run_command(main))
