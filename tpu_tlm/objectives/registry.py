"""The objectives by name, and a user's own from a file."""

from __future__ import annotations

from tpu_tlm.errors import UsageError
from tpu_tlm.objectives.base import Objective, ObjectiveContext
from tpu_tlm.objectives.clm import CausalLanguageModeling
from tpu_tlm.objectives.contrastive import DualEncoding
from tpu_tlm.objectives.custom import own_objective
from tpu_tlm.objectives.electra import ReplacedTokenDetection
from tpu_tlm.objectives.mlm import MaskedLanguageModeling
from tpu_tlm.objectives.replaced_tokens import Discrimination
from tpu_tlm.objectives.seq2seq import SequenceToSequence

_ALL: tuple[type[Objective], ...] = (
    MaskedLanguageModeling,
    CausalLanguageModeling,
    DualEncoding,
    SequenceToSequence,
    ReplacedTokenDetection,
    Discrimination,
)
OBJECTIVES: dict[str, type[Objective]] = {objective.name: objective for objective in _ALL}


def objective_class(name: str) -> type[Objective]:
    """The class of an objective: one of `OBJECTIVES`, or `path/to/file.py:Name`. Raises `UsageError` when there is none."""
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    if ".py:" in name:
        return own_objective(name)
    raise UsageError(
        f"--objective {name}: is none of {', '.join(OBJECTIVES)}, nor path/to/file.py:Name"
    )


def objective_of_kind(kind: str) -> str:
    """The name of the objective that a kind of model is measured by. Raises `UsageError` for a kind without one."""
    for name, objective in OBJECTIVES.items():
        if objective.kind == kind:
            return name
    raise UsageError(f"there is no objective for a model of kind {kind!r}")


def make_objective(name: str, setting: ObjectiveContext) -> Objective:
    """What a model is trained and measured by. Raises `UsageError` for an objective that there is not."""
    return objective_class(name).make(setting)
