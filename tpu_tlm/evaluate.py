"""The command that measures a model on held-out data: python -m tpu_tlm.evaluate --model RUN_OR_NPZ --data DIR."""

from __future__ import annotations

import json
import math
import sys

from tpu_tlm import options
from tpu_tlm.config import EvaluateConfig, RuntimeConfig
from tpu_tlm.errors import run_command


def main(argv: list[str] | None = None) -> int:
    """Print one JSON object: exact loss per target over the whole dataset, perplexity, accuracy, targets, examples."""
    config, devices = options.parse("tpu_tlm.evaluate", __doc__ or "", [EvaluateConfig, RuntimeConfig], argv)
    from tpu_tlm import runtime

    runtime.prepare(devices)
    from tpu_tlm.data.dataset import open_dataset
    from tpu_tlm.training.evaluation import evaluate_saved
    from tpu_tlm.training.saved import load_saved

    saved = load_saved(config.model, config.step)
    dataset = open_dataset(config.data)
    totals = evaluate_saved(saved, dataset, config.batch_size, config.eval_mask_rate, runtime.connect(devices), config.objective)
    print(
        json.dumps(
            {
                "model": saved.source,
                "data": config.data,
                "loss": totals.loss,
                "perplexity": math.exp(totals.loss),
                **{name: totals.mean(name) for name in totals.metrics},
                "targets": int(totals.weight),
                "examples": dataset.num_samples,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
