"""`--grad_accum auto`: into how many micro-batches the batch of a step is divided."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tpu_tlm.checkpoints.run_dir import RunDir
from tpu_tlm.config import Config, DataConfig, OptimConfig, PlanConfig
from tpu_tlm.devices.select import Devices
from tpu_tlm.errors import TlmError
from tpu_tlm.training.memory import available_memory, step_memory
from tpu_tlm.training.setup import Experiment
from tpu_tlm.training.start_report import parameters_of

# The value of `--grad_accum` that stands for a choice.
AUTO = 0
# Share of the free memory that a step may take by the estimate.
_ROOM = 0.9
# Activations of more tokens than this leave the memory inside a TPU's core, and every product
# then waits for the memory outside (benchmarks/tpu.md).
_TPU_TOKENS = 8192

# `planning.launch.values`, which stands above this room: the options, a slice, what to plan.
Planner = Callable[[Config, str, PlanConfig], dict[str, Any]]


def candidates(rows: int) -> list[int]:
    """Numbers of micro-batches for `rows` examples of a replica: powers of two that divide them."""
    found = [1]
    while rows % (2 * found[-1]) == 0:
        found.append(2 * found[-1])
    return found


def with_micro_batches(
    config: Config,
    experiment: Experiment,
    devices: Devices,
    directory: RunDir,
    planner: Planner | None = None,
) -> tuple[Config, Experiment, str]:
    """The options and the experiment with a number of micro-batches, and a line that says why.

    All workers take the largest number that one of them needs. A run that is continued with the
    same batch keeps its own number: then it has the same bits. planner: asked on a TPU.
    """
    found, why = _chosen(config, experiment, devices, directory, planner)
    found = max(devices.peers.gather(found))
    config = replace(config, optim=replace(config.optim, grad_accum=found))
    experiment = replace(experiment, step=replace(experiment.step, grad_accum=found))
    return config, experiment, f"--grad_accum auto: {found}, {why}"


def _chosen(
    config: Config,
    experiment: Experiment,
    devices: Devices,
    directory: RunDir,
    planner: Planner | None,
) -> tuple[int, str]:
    if directory.exists() and directory.saved():
        data, optim = directory.load([DataConfig, OptimConfig])
        if data.batch_size == config.data.batch_size and optim.grad_accum != AUTO:
            return optim.grad_accum, "as the run was begun with"
    if experiment.objective.cross_replica:
        return 1, "since examples are compared with all others of their micro-batch"
    rows = config.data.batch_size // devices.replicas
    if devices.kind == "tpu":
        return on_tpu(config, experiment, devices, rows, planner)
    free = available_memory(devices.kind)
    if free is None:
        return 1, "since the memory of a device is not known"
    if devices.kind == "cpu":
        free //= devices.replicas
    for number in candidates(rows):
        divided = replace(config, optim=replace(config.optim, grad_accum=number))
        needed = step_memory(
            divided,
            experiment.spec,
            parameters_of(experiment),
            devices.replicas,
            experiment.precision,
        )
        if needed.total <= _ROOM * free:
            return number, "the least that fits the memory, by an estimate"
    return number, "the most that divide the batch: by an estimate none fits the memory"


def on_tpu(
    config: Config, experiment: Experiment, devices: Devices, rows: int, planner: Planner | None
) -> tuple[int, str]:
    """The fastest number by the TPU compiler, or by a rule where the compiler is not here."""
    reason = "no planner is given"
    if planner is not None:
        told = "note: --grad_accum auto: asking the TPU compiler, which takes some minutes"
        print(told, file=sys.stderr, flush=True)
        asked = replace(config, optim=replace(config.optim, grad_accum=AUTO))
        try:
            found = planner(asked, devices.name, PlanConfig(quick=True, search=False))
            number = int(found["step"]["grad_accum"])
            fits = found["step"]["fits"]
            how = "the fastest" if fits else "the most that was tried: none fits"
            return number, f"{how} by the TPU compiler's estimate"
        except TlmError as error:
            reason = str(error).splitlines()[0]
    tokens = rows * max(experiment.spec.seq_length, experiment.spec.seq_length_y or 0)
    for number in candidates(rows):
        if tokens // number <= _TPU_TOKENS:
            break
    return number, (
        f"micro-batches of at most {_TPU_TOKENS:,} tokens a chip, since plan cannot be asked "
        f"({reason})"
    )
