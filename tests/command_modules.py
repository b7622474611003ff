"""The modules of the commands: `from tests.command_modules import train` is the module.

`tpu_tlm.train` itself is the function of the Python face, whatever was imported before.
"""

from __future__ import annotations

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    if name.startswith("_"):
        raise AttributeError(name)
    return importlib.import_module(f"tpu_tlm.{name}")
