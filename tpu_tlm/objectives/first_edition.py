"""Module names of the first edition, importable while an objective file is executed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Iterator, Sequence

# What an objective file of the first edition may import -> where it is now.
_MOVED = {
    "tpu_tlm.models.build": "tpu_tlm.models.registry",
    "tpu_tlm.models.masks": "tpu_tlm.models.layers.masks",
    "tpu_tlm.models.random": "tpu_tlm.models.layers.counter_rng",
    "tpu_tlm.models.variables": "tpu_tlm.models.layers.variables",
    "tpu_tlm.objectives.discriminator": "tpu_tlm.objectives.replaced_tokens",
    "tpu_tlm.objectives.make": "tpu_tlm.objectives.registry",
}


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a moved module under its old name; the module itself is the present one."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name in _MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return types.ModuleType(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        current = importlib.import_module(_MOVED[module.__name__])
        module.__dict__.update({k: v for k, v in vars(current).items() if not k.startswith("__")})


@contextlib.contextmanager
def old_modules() -> Iterator[None]:
    """A block in which the first edition's module names can be imported."""
    finder = _Moved()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in _MOVED:
            sys.modules.pop(name, None)
