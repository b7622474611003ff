"""Where a plan runs: in this process, or in the environment that has the TPU compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tpu_tlm.config import Config, PlanConfig, cli
from tpu_tlm.devices import installation
from tpu_tlm.devices.tpu import device_name, is_here
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.planning import environment
from tpu_tlm.planning.chips import CHIPS, parse_slice


def launch(plan: PlanConfig, config: Config, argv: Sequence[str]) -> int:
    """Print what the step of `config` needs on a TPU; returns the exit code.

    `argv`: the command line, for a child process where this environment lacks the compiler. Raises
    `UsageError` without `--tpu` or an environment that can compile, `TlmError` when the step does
    not fit.
    """
    if not config.runtime.tpu:
        raise UsageError("--tpu is required: the slice to plan for, such as v5e-1, v5e-8 or v6e-1")
    name = slice_name(config.runtime.tpu, installation.machine(), os.environ)
    if environment.missing():
        python = environment.find_python(plan.plan_python, os.environ, Path.cwd())
        if name != config.runtime.tpu:
            # The compiler's process is told another TPU_ACCELERATOR_TYPE; the last flag wins.
            argv = [*argv, "--tpu", name]
        return environment.in_child(python, "tpu_tlm.plan", argv)
    config = replace(config, runtime=replace(config.runtime, tpu=name))
    environment.prepare()
    from tpu_tlm.planning.run import plan_batch, plan_sweep
    from tpu_tlm.planning.subject import subject_of
    from tpu_tlm.planning.task_subject import task_subject

    started = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - started:4.0f} s] {what}", file=sys.stderr, flush=True)

    subject = (task_subject if plan.task else subject_of)(config, plan, say)
    return plan_sweep(subject, plan) if plan.sweep else plan_batch(subject, plan)


def slice_name(tpu: str, machine: installation.Machine, environ: Mapping[str, str]) -> str:
    """The slice to plan for: the one named, or for "local" the machine's own TPU.

    Raises `UsageError` for what is no slice, and for "local" where there is no TPU.
    """
    if tpu != "local":
        parse_slice(tpu)
        return tpu
    if not is_here(machine, environ):
        raise UsageError(
            "--tpu local: this machine has no TPU; name a slice to plan for, such as v5e-1 or v6e-8"
        )
    named = device_name(machine, environ)
    try:
        return parse_slice(named).name
    except UsageError:
        # A name that is not Google Cloud's, or none: what the PCI devices say.
        chip = machine.chips[0] if machine.chips else named
        cores = CHIPS[chip].cores if chip in CHIPS else 1
        return parse_slice(f"{chip}-{len(machine.chips) * cores}").name


def values(config: Config, tpu: str, plan: PlanConfig) -> dict[str, Any]:
    """What `--json` prints, as a dict, from a process of the environment that can compile.

    tpu: as for `slice_name`. Raises `UsageError` without such an environment, `TlmError` when the
    compiler fails. A step that does not fit is an answer (`fits` is false), not an error.
    """
    tpu = slice_name(tpu, installation.machine(), os.environ)
    python = sys.executable
    if environment.missing():
        python = environment.find_python(plan.plan_python, os.environ, Path.cwd())
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "plan.yaml"
        path.write_text(cli.dump(plan, *config.parts()), encoding="utf-8")
        argv = ["--config", str(path), "--tpu", tpu, "--json", "true"]
        done = subprocess.run(
            environment.child_command(python, "tpu_tlm.plan", argv),
            env=environment.child_environ(),
            capture_output=True,
            text=True,
        )
    start = done.stdout.find("{")
    if start < 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        error = UsageError if done.returncode == 2 else TlmError
        raise error(last.removeprefix("error: "))
    found: dict[str, Any] = json.loads(done.stdout[start:])
    return found
