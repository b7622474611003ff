"""Options of the optimizer, the learning rate and the micro-batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tpu_tlm.config.options import OptionGroup, opt

# Peak rate of a model as large as the default or larger; smaller ones have at most the second
# (docs/defaults.md).
_RATE, _HIGHEST = 4e-4, 2e-3
_WIDTH, _LAYERS = 512, 2
# Someone's weights are continued at this share of the rate that random ones start with.
CONTINUED_RATE = 0.25


def rate_of_size(width: int, layers: int, optimizer: str) -> float:
    """The learning rate of a model of this `d_model` and `num_layers` where none is given.

    Adam moves every weight by about its rate, whatever the gradient, so the change of an output
    grows with the width: the rate falls as 1 / width (arXiv 2203.03466), and as 1 / sqrt(layers)
    where more layers add their changes (arXiv 2310.02244). Two significant digits.
    """
    if optimizer not in ("adamw", "adam"):
        return _RATE
    rate = _RATE * _WIDTH / width * math.sqrt(_LAYERS / layers)
    return float(f"{min(_HIGHEST, max(_RATE, rate)):.2g}")


@dataclass(frozen=True)
class OptimConfig(OptionGroup):
    """Optimizer and learning rate."""

    optimizer: Literal["adamw", "adam", "lamb", "adafactor", "sgd"] = opt(
        "adamw", "optimizer", aliases=("optim",)
    )
    lr: float = opt(
        _RATE,
        "peak learning rate; where it is not given, for adamw and adam: 0.0004 * 512 / d_model * "
        "sqrt(2 / num_layers), from 0.0004 to 0.002, or that of the run that is continued; with "
        "--init_from a quarter",
        unit="number",
        above=0,
        basic=True,
        may_change=True,
        also_called=("learning_rate", "peak_lr"),
    )
    lr_schedule: Literal["cosine", "linear", "rsqrt", "wsd", "constant"] = opt(
        "cosine",
        "learning rate after the warm-up; wsd: constant, then a linear decay",
        may_change=True,
        also_called=("lr_scheduler_type", "lr_scheduler"),
    )
    warmup_steps: int | None = opt(
        None,
        "steps of linear warm-up; none = a tenth of the steps, at most 10000",
        unit="steps",
        minimum=0,
        may_change=True,
        also_called={"num_warmup_steps": "", "warmup_ratio": "in steps, not as a ratio"},
    )
    lr_end: float = opt(
        0.0,
        "linear, cosine, wsd: learning rate at the last step, as a fraction of lr",
        unit="fraction",
        minimum=0,
        maximum=1,
        may_change=True,
    )
    wsd_decay: float = opt(
        0.1,
        "wsd: fraction of the steps in which the learning rate decays",
        unit="fraction",
        minimum=0,
        maximum=1,
        only_with={"lr_schedule": ("wsd",)},
        may_change=True,
    )
    weight_decay: float = opt(
        1e-2,
        "decoupled weight decay, not applied to norms and biases",
        unit="number",
        minimum=0,
        only_with={"optimizer": ("adamw", "lamb", "adafactor", "sgd")},
        may_change=True,
    )
    clip: float = opt(
        1.0,
        "maximum global gradient norm; 0 = no clipping",
        unit="norm",
        minimum=0,
        may_change=True,
        also_called=("max_grad_norm", "gradient_clip_val", "grad_clip"),
    )
    beta1: float = opt(
        0.9,
        "adamw, adam, lamb: decay of the first moment; sgd: momentum",
        unit="fraction",
        minimum=0,
        below=1,
        only_with={"optimizer": ("adamw", "adam", "lamb", "sgd")},
        also_called=("adam_beta1",),
    )
    beta2: float = opt(
        0.98,
        "adamw, adam, lamb: decay of the second moment",
        unit="fraction",
        minimum=0,
        below=1,
        only_with={"optimizer": ("adamw", "adam", "lamb")},
        also_called=("adam_beta2",),
    )
    eps: float = opt(
        1e-6,
        "adamw, adam, lamb: added to the square root of the second moment",
        unit="number",
        minimum=0,
        only_with={"optimizer": ("adamw", "adam", "lamb")},
        also_called=("adam_epsilon",),
    )
    grad_accum: int = opt(
        1,
        "micro-batches per optimizer step; each has batch_size / grad_accum examples; auto or 0 = "
        "as many as the memory needs, or are fastest on a TPU",
        unit="micro-batches",
        minimum=0,
        words={"auto": 0},
        may_change=True,
        also_called={
            "gradient_accumulation_steps": "--batch_size stays the examples of all micro-batches"
        },
    )
    shard_optimizer: bool = opt(
        False,
        "divide the optimizer's state among the replicas (ZeRO-1), so that a larger model fits",
        only_with={"optimizer": ("adamw", "adam", "sgd")},
        may_change=True,
        also_called=("zero_stage", "sharded_ddp"),
    )
