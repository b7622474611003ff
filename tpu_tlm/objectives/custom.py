"""Loading and checking a user's own objective, `path/to/file.py:Name`."""

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
from tpu_tlm.filesystem.regular import open_regular
from tpu_tlm.models.registry import KINDS
from tpu_tlm.objectives.base import LossSums, Objective
from tpu_tlm.objectives.first_edition import old_modules

# The methods of an objective that the rest of the package calls.
_METHODS = ("predictions", "flops", "tokens", "check")
_CLASS_METHODS = ("from_config", "configure_model")

# Lines of a TensorFlow error that do not describe the operation, and parts of the other lines.
_FRAME = re.compile(r"Graph execution error|Detected at node|<stack traces|\d+ root error")
_NAMES = re.compile(
    r"^\s*\(\d+\) [A-Z_]+:\s*|Detected unsupported operations .* on XLA_\w+: |\{\{.*?\}\}"
)


def own_objective(where: str) -> type[Objective]:
    """The class at `path/to/file.py:Name`, wrapped so that its errors name file and line.

    Executes the file. Raises `UsageError` when the file does not exist or cannot be executed, or
    has no such complete subclass of `Objective`; `TlmError` when it ends the process (sys.exit).
    Methods of the returned class raise `TlmError` for their errors, and `UsageError` for sums that
    are not as the class declares.
    """
    path, _, name = where.rpartition(":")
    if not os.path.isfile(path):
        raise UsageError(f"--objective {where}: there is no file {path}")
    found = getattr(_executed(path, where), name, None)
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise UsageError(
            f"--objective {where}: {path} has no subclass of tpu_tlm.objectives.base.Objective"
            f" called {name!r}"
        )
    _check_declarations(found, where)
    methods: dict[str, Any] = {
        method: _guarded(getattr(found, method), path, where) for method in _METHODS
    }
    methods["__init__"] = _guarded(found.__init__, path, where)
    methods["__call__"] = _guarded(_checked(found.__call__, where), path, where)
    for method in _CLASS_METHODS:
        own = inspect.getattr_static(found, method)
        methods[method] = classmethod(_guarded(own.__func__, path, where))
    return type(
        found.__name__,
        (found,),
        {**methods, "_where": where, "__module__": found.__module__, "__doc__": found.__doc__},
    )


def _executed(path: str, where: str) -> types.ModuleType:
    """Execute the file as a module; it may import modules of its own directory."""
    module = types.ModuleType(f"own_objective_{os.path.splitext(os.path.basename(path))[0]}")
    module.__file__ = path
    sys.modules[module.__name__] = module
    directory = os.path.dirname(os.path.abspath(path))
    sys.path.insert(0, directory)
    try:
        with open_regular(path) as stream, old_modules():
            # Compiled here instead of imported: no bytecode is written next to the file, and no
            # stale bytecode is read.
            exec(compile(stream.read(), path, "exec"), module.__dict__)
    except KeyboardInterrupt:
        raise
    except Exception as error:
        raise UsageError(f"--objective {where}: {_place(error, path)}") from error
    except BaseException as error:
        raise TlmError(f"--objective {where}: {_place(error, path)}") from error
    finally:
        # Not restored as a whole: the file may have added to it.
        if directory in sys.path:
            sys.path.remove(directory)
    return module


def _check_declarations(found: type[Objective], where: str) -> None:
    """Raise `UsageError` for class attributes that are missing or of the wrong type."""
    name = found.__name__
    if missing := [attribute for attribute in ("name", "metrics") if not hasattr(found, attribute)]:
        raise UsageError(
            f"--objective {where}: {name} has no attribute {missing[0]} ({missing[0]} = ...)"
        )
    if not isinstance(found.name, str):
        raise UsageError(f"--objective {where}: name of {name} must be a string")
    for attribute in ("metrics", "loss_terms"):
        value = getattr(found, attribute)
        if not (isinstance(value, tuple | list) and all(isinstance(v, str) for v in value)):
            raise UsageError(
                f"--objective {where}: {attribute} of {name} must be a tuple of strings"
            )
    if missing := sorted(found.__abstractmethods__):
        raise UsageError(f"--objective {where}: {name} has no method {missing[0]}")
    if not isinstance(found.kind, str) or found.kind not in KINDS:
        raise UsageError(
            f"--objective {where}: kind {found.kind!r} of {name} is not a kind of model;"
            f" there are {', '.join(KINDS)}"
        )
    for method in _CLASS_METHODS:
        if not isinstance(inspect.getattr_static(found, method), classmethod):
            raise UsageError(f"--objective {where}: {method} of {name} must be a @classmethod")


def _text(error: BaseException) -> str:
    """The text of an error; its own `__str__` may raise."""
    try:
        return str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as second:
        return f"(its text cannot be shown: {type(second).__name__})"


def _place(error: BaseException, path: str) -> str:
    """An error in one line, with the last line of the file in its traceback."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == path
    ]
    text = _text(error)
    if isinstance(error, SyntaxError) and error.filename == path:
        lines, text = [error.lineno], error.msg
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SystemExit):
        said = f"it calls sys.exit({error.code!r}), which an objective must not do"
    return f"{path}, line {lines[-1]}: {said}" if lines else f"{path}: {said}"


def _guarded(method: Callable[..., Any], path: str, where: str) -> Callable[..., Any]:
    """The method, with every error but our own turned into one line that names the file's line."""

    @functools.wraps(method)
    def guarded(*args: Any, **others: Any) -> Any:
        try:
            return method(*args, **others)
        except (TlmError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise TlmError(f"--objective {where}: {_place(error, path)}") from error

    return guarded


def _checked(method: Callable[..., Any], where: str) -> Callable[..., LossSums]:
    """`__call__` with a check of its result: the compiled loop would fail far from the file."""

    @functools.wraps(method)
    def checked(self: Objective, *args: Any, **others: Any) -> LossSums:
        sums = method(self, *args, **others)
        if problem := _problem(self, sums):
            raise UsageError(f"--objective {where}: {problem}")
        return sums  # type: ignore[no-any-return]

    return checked


def _problem(objective: Objective, sums: Any) -> str:
    """Why sums are not as the objective declares; empty if they are."""
    if not isinstance(sums, LossSums):
        return (
            "__call__ must return LossSums(loss, weight, metrics), not a value of type"
            f" {type(sums).__name__}"
        )
    for field, given, declared in (
        ("metrics", sums.metrics, "metrics"),
        ("loss", sums.loss, "loss_terms"),
        ("weight", sums.weight, "loss_terms"),
    ):
        expected = set(getattr(objective, declared))
        found = set(given) if isinstance(given, dict) else set()
        if missing := sorted(expected - found):
            return f"{field} of its LossSums lacks {missing[0]!r}, declared in {declared} = ..."
        if more := sorted(map(str, found - expected)):
            return f"{field} of its LossSums has {more[0]!r}, not declared in {declared} = ..."
    pairs: dict[str, Any] = sums.metrics
    for name, pair in pairs.items():
        if not isinstance(pair, tuple) or len(pair) != 2:
            return f"metrics of its LossSums: {name!r} must be a pair, sum and count"
    for field, values in zip(LossSums._fields, sums, strict=True):
        for value in map(tf.convert_to_tensor, tf.nest.flatten(values)):
            if value.shape.rank or not value.dtype.is_floating:
                return (
                    f"{field} of its LossSums must be float32 scalars (tf.reduce_sum), not"
                    f" {value.dtype.name} of shape {value.shape}"
                )
    return ""


def compiler_error(objective: Objective, error: Exception) -> TlmError | None:
    """A `TlmError` for an error that TensorFlow or XLA raised at an operation of a user's own
    objective; None for any other error."""
    where: str = getattr(objective, "_where", "")
    # Other kinds of errors tell a worker that another worker has ended.
    if not where or not isinstance(
        error, tf.errors.InvalidArgumentError | tf.errors.UnimplementedError
    ):
        return None
    path, text = where.rpartition(":")[0], str(error)
    lines = re.findall(rf'File "{re.escape(path)}", line (\d+)', text)
    if not lines:
        return None
    # The first line about the operation, without the names that TensorFlow gave to the graph.
    told = [line for line in text.splitlines() if line.strip() and not _FRAME.match(line)]
    reason = " ".join(_NAMES.sub("", told[0]).split())[:250]
    what = "XLA cannot compile this" if "XLA" in text else type(error).__name__
    return TlmError(f"--objective {where}: {path}, line {lines[-1]}: {what}: {reason}")
