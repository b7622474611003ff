"""Where a plan runs: in this process, or in the environment that has the TPU compiler."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tpu_tlm.config import Config, PlanConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.planning import environment
from tpu_tlm.planning.chips import parse_slice


def launch(plan: PlanConfig, config: Config, argv: Sequence[str]) -> int:
    """Print what the step of `config` needs on a TPU; returns the exit code.

    `argv`: the command line, for a child process where this environment lacks the compiler. Raises
    `UsageError` without `--tpu` or an environment that can compile, `TlmError` when the step does
    not fit.
    """
    if not config.runtime.tpu:
        raise UsageError("--tpu is required: the slice to plan for, such as v5e-1, v5e-8 or v6e-1")
    parse_slice(config.runtime.tpu)
    if environment.missing():
        python = environment.find_python(plan.plan_python, os.environ, Path.cwd())
        return environment.in_child(python, "tpu_tlm.plan", argv)
    environment.prepare()
    from tpu_tlm.planning.run import plan_batch, plan_sweep
    from tpu_tlm.planning.subject import subject_of

    started = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - started:4.0f} s] {what}", file=sys.stderr, flush=True)

    subject = subject_of(config, plan, say)
    return plan_sweep(subject, plan) if plan.sweep else plan_batch(subject, plan)
