"""The errors that a command turns into one line and an exit code."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

_FLAG = re.compile(r"(?<![\w-])--(?=[a-z])")

P = ParamSpec("P")
R = TypeVar("R")

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_PREEMPTED = 143
# Of 128 to 255, which a TFJob's ExitCode policy retries, the one that Kubeflow leaves to users (128
# + SIGUSR1).
EXIT_PEER_LOST = 138


class TlmError(Exception):
    """A failure that one line explains: what (file, record or flag), why, and what to do; exit
    code 1.
    """

    exit_code = EXIT_FAILURE
    _as_flags: str | None = None

    @property
    def as_flags(self) -> str:
        """The message as a command prints it, with options named as flags."""
        return str(self) if self._as_flags is None else self._as_flags

    def name_parameters(self) -> None:
        """From now on the error's text names options as parameters (`steps`, not `--steps`)."""
        text = str(self)
        named = _FLAG.sub("", text)
        if named != text:
            self._as_flags = text
            self.args = (named,)


class UsageError(TlmError):
    """Wrong use: a flag, a configuration key or an input that the command cannot take; exit code
    2.
    """

    exit_code = EXIT_USAGE


class OptionError(UsageError):
    """An option whose value cannot be meant.

    The message names options as flags (`--mask_rate 1.5: must be ...`), which is what a command
    prints (`as_flags`); as a string the error names parameters (`mask_rate 1.5: must be ...`).
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.name_parameters()


class Preempted(TlmError):
    """The run was stopped by a signal or a preemption notice, saved its state and can be continued.

    exit_code: 143 (SIGTERM, preemption), 130 (SIGINT) or 129 (SIGHUP).
    """

    def __init__(self, message: str, exit_code: int = EXIT_PREEMPTED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class PeerLost(TlmError):
    """Another worker of the job died or cannot be reached: nothing is wrong here, the job is to
    be started again; exit code 138.
    """

    exit_code = EXIT_PEER_LOST


class PeerFailed(TlmError):
    """Another worker of the job ended with an error of its own, whose exit code this one takes
    over.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def naming_parameters(function: Callable[P, R]) -> Callable[P, R]:
    """A function of the Python face: errors that leave it name parameters, not flags."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TlmError as error:
            error.name_parameters()
            raise

    return wrapped


def run_command(
    main: Callable[[list[str] | None], int | None], argv: list[str] | None = None
) -> int:
    """Call a command's `main(argv)` and turn its outcome into an exit code.

    `TlmError`s become one line on standard error and their own code; `KeyboardInterrupt` becomes
    130; anything else is a defect of ours and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        # File names may hold what is no text; printing them must not fail on any terminal.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return int(main(argv) or 0)
    except TlmError as error:
        # Output may be closed, after SIGHUP for one: the exit code must not change.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            print(f"error: {' '.join(error.as_flags.split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (a pager, `head`) went away: not our failure, and Python must not complain
        # again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def end_process(code: int) -> NoReturn:
    """End the process with a command's exit code.

    A stopped run (129, 130, 143) ends without the interpreter's teardown, which may take longer
    than what is left of the grace period; its checkpoint is complete.
    """
    if code in (129, 130, EXIT_PREEMPTED):
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
