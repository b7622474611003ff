"""What a run says before its first step: sizes, passes over the text, memory, formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tpu_tlm.config import Config
from tpu_tlm.devices.processor import multiplies_bfloat16
from tpu_tlm.errors import UsageError
from tpu_tlm.training.memory import available_memory, gigabytes, smaller_batch, step_memory
from tpu_tlm.training.schedules import warmup_of

if TYPE_CHECKING:
    from tpu_tlm.devices.select import Devices
    from tpu_tlm.training.setup import Experiment

# Refused above this share of what is free: the estimate may be wrong by so much.
_CERTAIN = 1.5


def start_lines(config: Config, experiment: Experiment, devices: Devices) -> list[str]:
    """Lines about a run. Raises `UsageError` where its step clearly needs more memory than there
    is, naming the --batch_size or --grad_accum that fits.
    """
    return [
        *_sizes(config, experiment),
        *_memory(config, experiment, devices),
        *_bfloat16(config, experiment, devices),
        *_schedule(config, experiment),
        *_formats(experiment),
        *_validation(config),
    ]


def _sizes(config: Config, experiment: Experiment) -> list[str]:
    parameters = parameters_of(experiment)
    batch, spec = config.data.batch_size, experiment.spec
    samples = experiment.datasets.train.num_samples
    tokens = experiment.objective.tokens(spec) * batch
    epoch, passes = samples / batch, experiment.total_steps * batch / max(samples, 1)
    return [
        f"model: {parameters:,} parameters, {spec.kind}, {spec.config.num_layers} layers of "
        f"{spec.config.d_model}, vocabulary {spec.vocab_size:,}",
        f"data: {samples:,} examples; a step takes {batch} of them, {tokens:,} tokens; "
        f"{epoch:,.1f} steps an epoch, {experiment.total_steps:,} steps are {passes:.2f} passes",
    ]


def parameters_of(experiment: Experiment) -> int:
    """Number of parameters of the model."""
    total = 0
    for variable in experiment.step.model.trainable_variables:
        size = 1
        for dimension in variable.shape:
            size *= int(dimension)
        total += size
    return total


def _memory(config: Config, experiment: Experiment, devices: Devices) -> list[str]:
    needed = step_memory(
        config,
        experiment.spec,
        parameters_of(experiment),
        devices.replicas,
        experiment.precision,
    )
    shown = f"memory of a step, estimated: {gigabytes(needed.total)}"
    if config.optim.shard_optimizer and devices.replicas > 1:
        shown = f"optimizer state divided among {devices.replicas} replicas; {shown}"
    free = available_memory(devices.kind)
    if free is None:
        return [f"{shown} on each device"]
    if devices.kind == "cpu" and devices.replicas > 1:
        free //= devices.replicas
    if needed.total > _CERTAIN * free:
        fix = smaller_batch(config, needed, free, devices.replicas)
        raise UsageError(
            f"--batch_size {config.data.batch_size}: a step needs about "
            f"{gigabytes(needed.total)} of memory and {gigabytes(free)} are free; "
            + (f"give {fix}" if fix else "the model is too large for this machine")
        )
    risk = "; it may not fit" if needed.total > free else ""
    return [f"{shown} of {gigabytes(free)} that are free{risk}"]


def _bfloat16(config: Config, experiment: Experiment, devices: Devices) -> list[str]:
    """Advice for bfloat16 on a processor, where XLA computes it by way of float32."""
    compiled = config.runtime.xla and devices.xla
    if devices.kind != "cpu" or experiment.precision != "bfloat16" or not compiled:
        return []
    line = "--precision bfloat16: on processors XLA computes it by way of float32, which is slower"
    line += " than --precision float32"
    if multiplies_bfloat16():
        line += "; this one multiplies bfloat16, which --xla false uses: try it (docs/speed.md)"
    return [line]


def out_of_memory(config: Config) -> str:
    """The line for a step that had no memory after all."""
    batch, accum = config.data.batch_size, config.optim.grad_accum
    return (
        f"out of memory in a step: give --batch_size {max(1, batch // 2)}, or "
        f"--grad_accum {2 * accum} for the same result in smaller parts"
        + ("" if config.model.recompute else ", or --recompute")
    )


def _schedule(config: Config, experiment: Experiment) -> list[str]:
    optim, total = config.optim, experiment.total_steps
    lines = [
        f"learning rate {optim.lr:g}, {optim.lr_schedule}, after {warmup_of(optim, total)} of"
        f" {total} steps of warm-up"
    ]
    if experiment.objective.cross_replica and optim.grad_accum > 1:
        others = config.data.batch_size // optim.grad_accum - 1
        lines.append(
            f"--grad_accum {optim.grad_accum}: each example is compared with the {others} others of"
            " its micro-batch"
        )
    return lines


def _formats(experiment: Any) -> list[str]:
    from tpu_tlm.formats.writable import formats_line

    return [formats_line(experiment.spec)]


def _validation(config: Config) -> list[str]:
    if config.data.valid_dir:
        return []
    return ["no validation: give --valid_dir (preprocess --valid_fraction 0.05 makes one)"]
