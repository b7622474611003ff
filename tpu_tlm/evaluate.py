"""Measure a model on held-out data: python -m tpu_tlm.evaluate --model RUN_OR_NPZ --data DIR."""

from __future__ import annotations

import json
import sys

from tpu_tlm.config import EvaluateConfig, RuntimeConfig, cli
from tpu_tlm.distributed import pid1
from tpu_tlm.errors import run_command
from tpu_tlm.training.evaluation_options import evaluate


def main(argv: list[str] | None = None) -> int:
    """Print one JSON object: exact loss per target over the whole dataset, and metrics.

    A run directory is measured with the objective and options of its training, other models with
    defaults. For a dual encoder: loss and ranks among `--candidates` pairs.
    """
    if (code := pid1.run_below(argv)) is not None:
        return code
    config, runtime = cli.parse(
        "tpu_tlm.evaluate", __doc__ or "", [EvaluateConfig, RuntimeConfig], argv
    )
    print(json.dumps(evaluate(config, runtime)))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
