"""A small BERT's step as TensorFlow lowers it.

.venv-plan/bin/python -m tests.benchmarks.lowering PRECISION      # prints the lowering for a TPU
"""

from __future__ import annotations

import re
import sys

from benchmarks.tpu_step import BERT
from tpu_tlm.config import Config, cli
from tpu_tlm.planning import environment


def lowered_lines(precision: str, platform: str) -> list[str]:
    """The step's StableHLO for "CPU" or "TPU", without places in the source and numbers of
    names.
    """
    from tpu_tlm.planning.lower import trace
    from tpu_tlm.planning.stand_in import batch_specs, stand_in
    from tpu_tlm.training.setup import experiment_of

    sizes = {
        "num_layers": 1,
        "d_model": 32,
        "d_ff": 64,
        "num_heads": 2,
        "batch_size": 8,
        "warmup_steps": 10,
    }
    everything = Config(*cli.build(Config.groups(), {**BERT, **sizes}, "test"))
    corpora = stand_in(200, {"x": 16})
    function, flat, _ = trace(
        experiment_of(everything, corpora, 100, precision).step, batch_specs(corpora.train, 8)
    )
    text = function.experimental_get_compiler_ir(*flat)(stage="stablehlo", platform_name=platform)
    text = re.sub(r" loc\((?:[^()]|\([^()]*\))*\)", "", re.sub(r"(?m)^#loc.*$", "", text))
    text = re.sub(r"@a_inference\S+", "@step", re.sub(r"(@\w+?)\.\d+", r"\1", text))
    return [line for line in text.splitlines() if line.strip()]


if __name__ == "__main__":
    environment.prepare()
    print("\n".join(lowered_lines(sys.argv[1], "TPU")))
