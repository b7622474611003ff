"""The built-in objectives by name; imports TensorFlow only when a class is needed."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tpu_tlm.config.objectives import (
    ContrastiveConfig,
    DenoisingConfig,
    ElectraConfig,
    MlmConfig,
)
from tpu_tlm.errors import UsageError

if TYPE_CHECKING:
    from tpu_tlm.objectives.base import Objective, ObjectiveContext


@dataclasses.dataclass(frozen=True)
class Entry:
    """One built-in objective.

    target: "module:Class". options: the option classes that it reads. evaluation: names of the
    options that `evaluate` may override.
    """

    target: str
    options: tuple[type, ...] = ()
    evaluation: tuple[str, ...] = ()

    def load(self) -> type[Objective]:
        """Import the class."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


_ROOM = "tpu_tlm.objectives"

OBJECTIVES: dict[str, Entry] = {
    "mlm": Entry(f"{_ROOM}.mlm:MaskedLanguageModeling", (MlmConfig,), ("eval_mask_rate",)),
    "clm": Entry(f"{_ROOM}.clm:CausalLanguageModeling"),
    "dual-encoder": Entry(
        f"{_ROOM}.contrastive:DualEncoding", (ContrastiveConfig,), ("loss", "margin")
    ),
    "seq2seq": Entry(f"{_ROOM}.seq2seq:SequenceToSequence", (DenoisingConfig,)),
    "electra": Entry(
        f"{_ROOM}.electra:ReplacedTokenDetection",
        (MlmConfig, ElectraConfig),
        ("eval_mask_rate", "disc_weight"),
    ),
    "discriminator": Entry(
        f"{_ROOM}.replaced_tokens:Discrimination", (ElectraConfig,), ("label_one",)
    ),
}


def is_file(name: str) -> bool:
    """Whether an objective's name is `path/to/file.py:Name`, a user's own."""
    return ".py:" in name


def objective_class(name: str) -> type[Objective]:
    """The class of an objective: one of `OBJECTIVES`, or `path/to/file.py:Name`.

    A file is executed at every call: resolve a name once and pass the class on. Raises `UsageError`
    for an unknown name, and as `objectives.custom.own_objective`.
    """
    if name in OBJECTIVES:
        return OBJECTIVES[name].load()
    if is_file(name):
        custom = importlib.import_module(f"{_ROOM}.custom")
        return custom.own_objective(name)  # type: ignore[no-any-return]
    known = ", ".join(OBJECTIVES)
    raise UsageError(f"--objective {name}: not one of {known}, nor path/to/file.py:Name")


def objective_of_kind(kind: str) -> str:
    """Name of the first objective that trains models of a kind.

    Raises `UsageError` for a kind without one.
    """
    for name, entry in OBJECTIVES.items():
        if entry.load().kind == kind:
            return name
    raise UsageError(f"there is no objective for a model of kind {kind!r}")


def make_objective(name: str, context: ObjectiveContext) -> Objective:
    """Create an objective by name. Raises `UsageError` as `objective_class`."""
    return objective_class(name).from_config(context)


def check_evaluation(name: str, given: Mapping[str, Any]) -> None:
    """Raise `UsageError` for an option of `evaluate` that the objective does not use.

    given: option name -> value, those that were set. A user's own objective may read all of them.
    """
    if name not in OBJECTIVES:
        return
    for option, value in given.items():
        if option not in OBJECTIVES[name].evaluation:
            users = [other for other, one in OBJECTIVES.items() if option in one.evaluation]
            raise UsageError(
                f"--{option} {value}: --objective {name} does not use it, only"
                f" {' and '.join(users)}; leave it out"
            )


def evaluation_options() -> tuple[str, ...]:
    """Names of all options that `evaluate` may override."""
    return tuple(dict.fromkeys(n for entry in OBJECTIVES.values() for n in entry.evaluation))
