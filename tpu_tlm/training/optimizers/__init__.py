"""Optimizers as pure functions on tensors."""

from tpu_tlm.training.optimizers.adafactor import Adafactor
from tpu_tlm.training.optimizers.adam import Adam, AdamW
from tpu_tlm.training.optimizers.base import Optimizer, decays
from tpu_tlm.training.optimizers.clipping import clip_by_global_norm, global_norm
from tpu_tlm.training.optimizers.lamb import Lamb
from tpu_tlm.training.optimizers.registry import OPTIMIZERS, make_optimizer
from tpu_tlm.training.optimizers.sgd import Sgd

__all__ = [
    "OPTIMIZERS",
    "Adafactor",
    "Adam",
    "AdamW",
    "Lamb",
    "Optimizer",
    "Sgd",
    "clip_by_global_norm",
    "decays",
    "global_norm",
    "make_optimizer",
]
