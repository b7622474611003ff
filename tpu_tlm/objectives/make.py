"""The objectives by name, and a user's own from a file."""

from __future__ import annotations

import importlib.util
import os
import sys

from tpu_tlm.errors import UsageError
from tpu_tlm.models.build import KINDS
from tpu_tlm.objectives.base import Objective, Setting
from tpu_tlm.objectives.clm import CausalLanguageModeling
from tpu_tlm.objectives.mlm import MaskedLanguageModeling
from tpu_tlm.objectives.seq2seq import SequenceToSequence

OBJECTIVES: dict[str, type[Objective]] = {o.name: o for o in (MaskedLanguageModeling, CausalLanguageModeling, SequenceToSequence)}


def _own(where: str) -> type[Objective]:
    path, _, name = where.rpartition(":")
    if not os.path.isfile(path):
        raise UsageError(f"--objective {where}: there is no file {path}")
    module_name = f"own_objective_{os.path.splitext(os.path.basename(path))[0]}"
    specification = importlib.util.spec_from_file_location(module_name, path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[module_name] = module
    specification.loader.exec_module(module)
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise UsageError(f"--objective {where}: {path} has no subclass of tpu_tlm.objectives.base.Objective called {name!r}")
    if found.kind not in KINDS:
        raise UsageError(f"--objective {where}: its kind {found.kind!r} is no kind of model; there are {', '.join(KINDS)}")
    return found


def objective_class(name: str) -> type[Objective]:
    """The class of an objective: one of `OBJECTIVES`, or `path/to/file.py:Name`. Raises `UsageError` when there is none."""
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    if ".py:" in name:
        return _own(name)
    raise UsageError(f"--objective {name}: is none of {', '.join(OBJECTIVES)}, nor path/to/file.py:Name")


def objective_of_kind(kind: str) -> str:
    """The name of the objective that a kind of model is measured by. Raises `UsageError` for a kind without one."""
    for name, objective in OBJECTIVES.items():
        if objective.kind == kind:
            return name
    raise UsageError(f"there is no objective for a model of kind {kind!r}")


def make_objective(name: str, setting: Setting) -> Objective:
    """What a model is trained and measured by. Raises `UsageError` for an objective that there is not."""
    return objective_class(name).make(setting)
