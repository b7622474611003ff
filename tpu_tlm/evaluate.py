"""The command that measures a model on held-out data: python -m tpu_tlm.evaluate --model RUN_OR_NPZ --data DIR."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

from tpu_tlm.config import (
    ContrastiveConfig,
    DenoisingConfig,
    ElectraConfig,
    EvaluateConfig,
    MlmConfig,
    RuntimeConfig,
    cli,
)
from tpu_tlm.distributed import pid1
from tpu_tlm.errors import UsageError, run_command


def main(argv: list[str] | None = None) -> int:
    """Print one JSON object: exact loss per target over the whole dataset, perplexity, accuracy, targets, examples.

    Of a run directory, what is not given of the loss is as the run was trained with; of other models it has its defaults.
    Of a dual encoder: loss and ranks among `--candidates` pairs, taken from the dataset in its order; `left_out`: the last, incomplete lot.
    """
    if (code := pid1.run_below(argv)) is not None:
        return code
    config, devices = cli.parse(
        "tpu_tlm.evaluate", __doc__ or "", [EvaluateConfig, RuntimeConfig], argv
    )
    from tpu_tlm.devices import select

    select.prepare(devices)
    select.check_paths(devices, {"--data": config.data})
    from tpu_tlm.checkpoints.run_dir import RunDir
    from tpu_tlm.data.dataset.dataset import open_dataset
    from tpu_tlm.formats.load import is_run, load
    from tpu_tlm.objectives.base import ObjectiveOptions
    from tpu_tlm.objectives.registry import objective_class, objective_of_kind
    from tpu_tlm.training.evaluation import evaluate_saved

    saved = load(config.model, step=config.step)
    for line in saved.report():
        print(line, file=sys.stderr)
    dataset = open_dataset(config.data)
    asked = config.objective or objective_of_kind(saved.spec.kind)
    measured = objective_class(asked)
    classes = [MlmConfig, ContrastiveConfig, DenoisingConfig, ElectraConfig]
    trained = (
        RunDir(config.model).load(classes)
        if is_run(config.model)
        else [kind() for kind in classes]
    )
    asked_for = {name: value for name, value in vars(config).items() if value is not None}
    chosen = ObjectiveOptions(
        *(replace(one, **{k: v for k, v in asked_for.items() if k in vars(one)}) for one in trained)
    )
    rows, samples = (
        config.candidates if measured.cross_replica else config.batch_size,
        dataset.num_samples,
    )
    if measured.cross_replica and not 2 <= rows <= samples:
        raise UsageError(f"--candidates {rows}: must be 2 to the {samples} pairs in {config.data}")
    found = select.connect(devices, trains=False)
    with found.team:
        totals = evaluate_saved(saved, dataset, rows, chosen, found, asked)
    print(
        json.dumps(
            {
                "model": saved.source,
                "data": config.data,
                "loss": totals.loss,
                **(
                    {"perplexity": math.exp(min(totals.loss, 700.0))} if measured.perplexity else {}
                ),
                **{name: totals.mean(name) for name in totals.metrics},
                "targets": int(totals.weight),
                **(
                    {"candidates": rows, "left_out": samples % rows}
                    if measured.cross_replica
                    else {}
                ),
                "examples": samples,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
