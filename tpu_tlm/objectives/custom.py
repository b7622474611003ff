"""A user's own objective, out of a file of theirs: `path/to/file.py:Name`."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.models.registry import KINDS
from tpu_tlm.objectives.base import LossSums, Objective

# What the rest of the program calls of an objective.
_CALLED = ("predictions", "flops", "tokens")
_CLASS_METHODS = ("make", "adapt")

# Of an error of TensorFlow's: lines that say nothing of the operation, and in the others what says nothing.
_FRAME = re.compile(r"Graph execution error|Detected at node|<stack traces|\d+ root error")
_NAMES = re.compile(
    r"^\s*\(\d+\) [A-Z_]+:\s*|Detected unsupported operations .* on XLA_\w+: |\{\{.*?\}\}"
)


def _place(error: Exception, path: str) -> str:
    """An error in one line, with the last line of the file that it came through."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == path
    ]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines, error = [error.lineno], SyntaxError(error.msg)
    return (
        f"{path}, line {lines[-1]}: {type(error).__name__}: {error}"
        if lines
        else f"{path}: {type(error).__name__}: {error}"
    )


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


def _checked(method: Callable[..., Any], where: str) -> Callable[..., LossSums]:
    """`__call__`, what it gives refused where it is not what the class says: else the compiled loop would fail far from the file."""

    @functools.wraps(method)
    def checked(self: Objective, *args: Any, **others: Any) -> LossSums:
        sums = method(self, *args, **others)
        if not isinstance(sums, LossSums):
            raise UsageError(
                f"--objective {where}: __call__ must return Sums(loss, weight, metrics), not {type(sums).__name__}"
            )
        names = (
            ("metrics", sums.metrics, "metrics"),
            ("loss", sums.loss, "parts"),
            ("weight", sums.weight, "parts"),
        )
        for field, given, declared in names:
            said, found = (
                set(getattr(self, declared)),
                set(given) if isinstance(given, dict) else set(),
            )
            if missing := sorted(said - found):
                raise UsageError(
                    f"--objective {where}: {field} of its Sums lacks {missing[0]!r}, which its {declared} = ... name"
                )
            if more := sorted(found - said):
                raise UsageError(
                    f"--objective {where}: {field} of its Sums has {more[0]!r}, which its {declared} = ... do not name"
                )
        for name, pair in sums.metrics.items():
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise UsageError(
                    f"--objective {where}: metrics of its Sums: {name!r} must be a pair, sum and count"
                )
        for field, values in zip(LossSums._fields, sums, strict=True):
            for value in map(tf.convert_to_tensor, tf.nest.flatten(values)):
                if value.shape.rank or not value.dtype.is_floating:
                    told = f"{value.dtype.name} of shape {value.shape}"
                    raise UsageError(
                        f"--objective {where}: {field} of its Sums must be float32 scalars (tf.reduce_sum), not {told}"
                    )
        return sums

    return checked


def compiler_error(objective: Objective, error: Exception) -> TlmError | None:
    """In one line an error that TensorFlow or XLA raised at an operation of a user's own objective; None for any other."""
    where: str = getattr(objective, "_where", "")
    # Not the errors by which a worker learns that another one is gone.
    if not where or not isinstance(
        error, tf.errors.InvalidArgumentError | tf.errors.UnimplementedError
    ):
        return None
    path, text = where.rpartition(":")[0], str(error)
    lines = re.findall(rf'File "{re.escape(path)}", line (\d+)', text)
    if not lines:
        return None
    # The first words that are about the operation, without the names that TensorFlow gave to our graph.
    told = [line for line in text.splitlines() if line.strip() and not _FRAME.match(line)]
    reason = " ".join(_NAMES.sub("", told[0]).split())[:250]
    who = "XLA cannot compile this" if "XLA" in text else type(error).__name__
    return TlmError(f"--objective {where}: {path}, line {lines[-1]}: {who}: {reason}")


def _run(path: str, module: types.ModuleType) -> None:
    """Execute the file as the module's; it may import what lies beside it."""
    beside = os.path.dirname(os.path.abspath(path))
    sys.path.insert(0, beside)
    try:
        with open(path, encoding="utf-8") as stream:
            # Compiled here, not imported: nothing is written beside the user's file, and no stale bytecode is read.
            exec(compile(stream.read(), path, "exec"), module.__dict__)
    finally:
        # Not the list as it was before: the file may have added to it.
        if beside in sys.path:
            sys.path.remove(beside)


def own_objective(where: str) -> type[Objective]:
    """The class behind `path/to/file.py:Name`; what goes wrong in it is a `TlmError` naming the line.

    Raises `UsageError` when the file is not there or does not run, has no such subclass of `Objective`, or one of no known kind of model;
    and so does the class, when it gives other sums than it says.
    """
    path, _, name = where.rpartition(":")
    if not os.path.isfile(path):
        raise UsageError(f"--objective {where}: there is no file {path}")
    module = types.ModuleType(f"own_objective_{os.path.splitext(os.path.basename(path))[0]}")
    module.__file__ = path
    sys.modules[module.__name__] = module
    try:
        _run(path, module)
    except Exception as error:
        raise UsageError(f"--objective {where}: {_place(error, path)}") from error
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise UsageError(
            f"--objective {where}: {path} has no subclass of tpu_tlm.objectives.base.Objective called {name!r}"
        )
    if missing := [attribute for attribute in ("name", "metrics") if not hasattr(found, attribute)]:
        raise UsageError(
            f"--objective {where}: {name} does not say its {missing[0]} ({missing[0]} = ...)"
        )
    if missing := sorted(found.__abstractmethods__):
        raise UsageError(f"--objective {where}: {name} has no method {missing[0]}")
    if found.kind not in KINDS:
        raise UsageError(
            f"--objective {where}: its kind {found.kind!r} is no kind of model; there are {', '.join(KINDS)}"
        )
    methods: dict[str, Any] = {
        method: _guarded(getattr(found, method), path, where) for method in _CALLED
    }
    methods["__call__"] = _guarded(_checked(found.__call__, where), path, where)
    for method in _CLASS_METHODS:
        own = inspect.getattr_static(found, method)
        if not isinstance(own, classmethod):
            raise UsageError(f"--objective {where}: {method} of {name} must be a @classmethod")
        methods[method] = classmethod(_guarded(own.__func__, path, where))
    return type(
        found.__name__,
        (found,),
        {**methods, "_where": where, "__module__": found.__module__, "__doc__": found.__doc__},
    )
