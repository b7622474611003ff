"""The objective and options with which a trained model is evaluated, without TensorFlow."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tpu_tlm.config import EvaluateConfig, RunConfig, RuntimeConfig
from tpu_tlm.config.objectives import OBJECTIVE_OPTIONS
from tpu_tlm.errors import UsageError
from tpu_tlm.objectives.options import ObjectiveOptions
from tpu_tlm.objectives.registry import evaluation_options, is_file

if TYPE_CHECKING:
    from tpu_tlm.formats.pretrained import PretrainedModel

# Examples per step, and pairs among which a pair is ranked, where nothing is given.
BATCH_SIZE, CANDIDATES = 64, 100


def with_overrides(options: ObjectiveOptions, overrides: Mapping[str, Any]) -> ObjectiveOptions:
    """Options with some fields replaced. Raises `UsageError` for `margin` without the loss that
    has one."""
    changed = []
    for group in options.instances():
        names = {field.name for field in dataclasses.fields(group)}
        own = {name: value for name, value in overrides.items() if name in names}
        changed.append(dataclasses.replace(group, **own))
    result = ObjectiveOptions(*changed)
    if "margin" in overrides and result.contrastive.loss != "triplet":
        raise UsageError(
            f"--margin {overrides['margin']}: --loss {result.contrastive.loss} does not use it,"
            " only triplet; leave it out"
        )
    return result


def run_settings(model: str, objective: str | None) -> tuple[str | None, ObjectiveOptions | None]:
    """Objective and options for evaluating the model at a path: those of its run.

    objective: the one to use instead, None = the run's own. For a model that is not a run directory
    the options are None. Raises `UsageError` where a run was trained with a file that is not there.
    """
    from tpu_tlm.checkpoints.run_dir import RunDir
    from tpu_tlm.formats.load import is_run

    if not is_run(model):
        return objective, None
    run, *groups = RunDir(model).load([RunConfig, *OBJECTIVE_OPTIONS])
    if objective is None and is_file(run.objective):
        path = run.objective.rpartition(":")[0]
        if not os.path.isfile(path):
            raise UsageError(
                f"{model}: was trained with --objective {run.objective}, and there is no file"
                f" {path} here; give --objective path/to/file.py:Name, or a built-in one"
            )
    return objective or run.objective, ObjectiveOptions(*groups)


def evaluate(config: EvaluateConfig, runtime: RuntimeConfig) -> dict[str, Any]:
    """Measure a model on a dataset as options describe; see `evaluation.evaluate_model`.

    A run directory is measured with the objective and options that it was trained with, where
    nothing else is given. Imports TensorFlow.
    """
    from tpu_tlm.devices import select

    select.prepare(runtime)
    select.check_paths(runtime, {"--data": config.data})
    from tpu_tlm.formats.load import load
    from tpu_tlm.training.evaluation import evaluate_model
    from tpu_tlm.training.setup import precision_of

    saved: PretrainedModel = load(config.model, step=config.step)
    for line in saved.report():
        print(line, file=sys.stderr)
    objective, options = run_settings(config.model, config.objective)
    devices = select.connect(runtime, trains=False)
    overrides = {
        name: value
        for name in evaluation_options()
        if (value := getattr(config, name, None)) is not None
    }
    with devices.peers:
        return evaluate_model(
            saved,
            config.data,
            devices,
            objective=objective,
            options=options,
            overrides=overrides,
            batch_size=config.batch_size,
            candidates=config.candidates,
            precision=precision_of(runtime, devices.kind),
            xla=runtime.xla,
        )
