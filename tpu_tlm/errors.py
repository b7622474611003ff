"""The errors that a command turns into one line and an exit code."""

from __future__ import annotations

import contextlib
import errno
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

_LONGEST = 1800  # characters of an error


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


class _Output(io.TextIOWrapper):
    """Standard output or error of a command, which remembers why it could not be written.

    outlived: the command goes on when nobody reads it any more, or its disk is full.
    """

    def __init__(self, old: io.TextIOWrapper, outlived: bool) -> None:
        lines, through = old.line_buffering, old.write_through
        super().__init__(
            old.buffer,
            old.encoding,
            # File names may hold what is no text; printing them must not fail on any terminal.
            "backslashreplace",
            line_buffering=lines,
            write_through=through,
        )
        self._old = old  # its end would close the buffer
        self.outlived = outlived
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._failed(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        first, self.failure = self.failure is None, error
        if not self.outlived:
            raise error
        if first and self is sys.stdout:
            _print_error(
                f"warning: standard output cannot be written ({error.strerror}); the command goes"
                " on without it"
            )


def outlive_output() -> None:
    """From here on standard output that cannot be written is a warning.

    For commands whose product is files: a reader that goes away must not end hours of work.
    """
    if isinstance(sys.stdout, _Output):
        sys.stdout.outlived = True


def _open_missing_streams() -> None:
    """Lead standard streams that the caller closed (`2>&-`, some daemons) to nowhere.

    Otherwise the next file opened takes the stream's number, and libraries write their messages
    into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
    # No context manager: like Python's own streams they stay open to the end.
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _wrap_streams() -> None:
    """Replace the streams of an ordinary process; a notebook's or a test's stay as they are."""
    if type(sys.stdout) is io.TextIOWrapper:
        sys.stdout = _Output(sys.stdout, outlived=False)
    if type(sys.stderr) is io.TextIOWrapper:
        sys.stderr = _Output(sys.stderr, outlived=True)


def run_command(
    main: Callable[[list[str] | None], int | None], argv: list[str] | None = None
) -> int:
    """Call a command's `main(argv)` and turn its outcome into an exit code.

    `TlmError`s become one line on standard error and their own code; `KeyboardInterrupt` becomes
    130; standard output on a full disk becomes 1, and one that nobody reads any more (a pager,
    `head`) 0; anything else is a defect of ours and keeps its traceback.
    """
    from tpu_tlm.config.imports import import_quickly

    _open_missing_streams()
    _wrap_streams()
    import_quickly()
    try:
        code = int(main(argv) or 0)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except TlmError as error:
        # Output may be closed, after SIGHUP for one: the exit code must not change.
        _abandon_unwritable_output()
        message = " ".join(error.as_flags.split())
        if len(message) > _LONGEST:
            # A hostile file's values may be of any length; what to do comes last.
            message = f"{message[: _LONGEST - 500]} ... {message[-480:]}"
        _print_error(f"error: {message}")
        return error.exit_code
    except KeyboardInterrupt:
        _abandon_unwritable_output()
        _print_error("interrupted")
        return 130
    except OSError as error:
        cause = _abandon_unwritable_output()
        if isinstance(error, BrokenPipeError) or (cause and cause.errno == errno.EPIPE):
            return 0
        if cause is None:
            raise
        _print_error(f"error: standard output cannot be written: {cause.strerror or cause}")
        return EXIT_FAILURE


def _print_error(text: str) -> None:
    """Print on standard error, if that can be written."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _abandon_unwritable_output() -> OSError | None:
    """Flush standard output; where it cannot be written, return why.

    It is then written to nowhere, so that Python does not complain again at the end.
    """
    if sys.stdout is None:
        return None
    try:
        sys.stdout.flush()
        failure = sys.stdout.failure if isinstance(sys.stdout, _Output) else None
    except OSError as error:
        failure = error
    except ValueError:  # closed
        return None
    if failure is not None:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return failure


def end_process(code: int) -> NoReturn:
    """End the process with a command's exit code.

    A stopped run (129, 130, 143) ends without the interpreter's teardown, which may take longer
    than what is left of the grace period; its checkpoint is complete.
    """
    if code in (129, 130, EXIT_PREEMPTED):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)
    sys.exit(code)
