"""Training: setup, trainer, step, optimizers, schedules, callbacks, evaluation.

Importing this package does not import TensorFlow; calling `train` and `evaluate` does.
"""

from tpu_tlm.training.callbacks import (
    Callback,
    EvaluationReport,
    RunStart,
    SaveReport,
    StepReport,
)
from tpu_tlm.training.evaluation_options import evaluate
from tpu_tlm.training.run import make_trainer, train

__all__ = [
    "Callback",
    "EvaluationReport",
    "RunStart",
    "SaveReport",
    "StepReport",
    "evaluate",
    "make_trainer",
    "train",
]
