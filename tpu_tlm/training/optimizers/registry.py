"""The optimizers by name."""

from __future__ import annotations

import math

from tpu_tlm.config import OptimConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.training.optimizers.adafactor import Adafactor
from tpu_tlm.training.optimizers.adam import Adam, AdamW
from tpu_tlm.training.optimizers.base import Optimizer
from tpu_tlm.training.optimizers.lamb import Lamb
from tpu_tlm.training.optimizers.sgd import Sgd

# The choices of `--optimizer`.
OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adamw": AdamW,
    "adam": Adam,
    "lamb": Lamb,
    "adafactor": Adafactor,
    "sgd": Sgd,
}


def make_optimizer(config: OptimConfig) -> Optimizer:
    """The optimizer that the options name. Raises `UsageError` for impossible numbers."""
    for name, value in (("beta1", config.beta1), ("beta2", config.beta2)):
        if not 0.0 <= value < 1.0:
            raise UsageError(f"--{name} {value}: must be at least 0 and below 1")
    for name, value in (("weight_decay", config.weight_decay), ("eps", config.eps)):
        if not (math.isfinite(value) and value >= 0.0):
            raise UsageError(f"--{name} {value}: must be a finite number, 0 or more")
    if config.optimizer not in OPTIMIZERS:
        raise UsageError(f"--optimizer {config.optimizer}: not one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[config.optimizer].from_config(config)
