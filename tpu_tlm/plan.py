"""python -m tpu_tlm.plan: compile a training step for a TPU, without one.

    python -m tpu_tlm.plan --tpu v5e-8 [the options of train]

Prints whether the step fits into memory, the largest batch that does, and the compiler's estimate
of its speed.
"""

from __future__ import annotations

import sys

from tpu_tlm.config import Config, PlanConfig, cli
from tpu_tlm.errors import run_command


def main(argv: list[str] | None = None) -> int:
    """Print what the step needs; exit code 1 when it does not fit."""
    plan, *groups = cli.parse(
        "tpu_tlm.plan", __doc__ or "", (PlanConfig, *Config.groups()), argv, check_required=False
    )
    from tpu_tlm.planning.launch import launch

    return launch(plan, Config(*groups), sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(run_command(main))
