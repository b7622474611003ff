"""A user's own objective, out of a file of theirs: `path/to/file.py:Name`."""

from __future__ import annotations

import functools
import os
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.models.build import KINDS
from tpu_tlm.objectives.base import Objective

# What the rest of the program calls of an objective.
_CALLED = ("__call__", "predictions", "flops", "tokens")
_CLASS_METHODS = ("make", "adapt")


def _place(error: Exception, path: str) -> str:
    """An error in one line, with the last line of the file that it came through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines, error = [error.lineno], SyntaxError(error.msg)
    return f"{path}, line {lines[-1]}: {type(error).__name__}: {error}" if lines else f"{path}: {type(error).__name__}: {error}"


def _guarded(method: Callable[..., Any], path: str, where: str) -> Callable[..., Any]:
    """The method, what goes wrong in it as one line that names the place in the user's file."""

    @functools.wraps(method)
    def guarded(*args: Any, **others: Any) -> Any:
        try:
            return method(*args, **others)
        except TlmError:
            raise
        except Exception as error:
            raise TlmError(f"--objective {where}: {_place(error, path)}") from error

    return guarded


def own_objective(where: str) -> type[Objective]:
    """The class behind `path/to/file.py:Name`; what goes wrong in it is a `TlmError` naming the line.

    Raises `UsageError` when the file is not there or does not run, has no such subclass of `Objective`, or one of no known kind of model.
    """
    path, _, name = where.rpartition(":")
    if not os.path.isfile(path):
        raise UsageError(f"--objective {where}: there is no file {path}")
    module = types.ModuleType(f"own_objective_{os.path.splitext(os.path.basename(path))[0]}")
    module.__file__ = path
    sys.modules[module.__name__] = module
    try:
        with open(path, encoding="utf-8") as stream:
            # Compiled here, not imported: nothing is written beside the user's file, and no stale bytecode is read.
            exec(compile(stream.read(), path, "exec"), module.__dict__)
    except Exception as error:
        raise UsageError(f"--objective {where}: {_place(error, path)}") from error
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise UsageError(f"--objective {where}: {path} has no subclass of tpu_tlm.objectives.base.Objective called {name!r}")
    if missing := [attribute for attribute in ("name", "metrics") if not hasattr(found, attribute)]:
        raise UsageError(f"--objective {where}: {name} does not say its {missing[0]} ({missing[0]} = ...)")
    if missing := sorted(found.__abstractmethods__):
        raise UsageError(f"--objective {where}: {name} has no method {missing[0]}")
    if found.kind not in KINDS:
        raise UsageError(f"--objective {where}: its kind {found.kind!r} is no kind of model; there are {', '.join(KINDS)}")
    methods: dict[str, Any] = {method: _guarded(getattr(found, method), path, where) for method in _CALLED}
    methods |= {method: classmethod(_guarded(getattr(found, method).__func__, path, where)) for method in _CLASS_METHODS}
    return type(found.__name__, (found,), {**methods, "__module__": found.__module__, "__doc__": found.__doc__})
