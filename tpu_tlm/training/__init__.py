"""Training: setup, trainer, step, optimizers, schedules, callbacks, evaluation.

Importing this package does not import TensorFlow; `train` does when it is called.
"""

from tpu_tlm.training.callbacks import (
    Callback,
    EvaluationReport,
    RunStart,
    SaveReport,
    StepReport,
)
from tpu_tlm.training.run import make_trainer, train

__all__ = [
    "Callback",
    "EvaluationReport",
    "RunStart",
    "SaveReport",
    "StepReport",
    "make_trainer",
    "train",
]
