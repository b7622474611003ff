"""`popen` and `run` of Python commands without the seconds in which they import TensorFlow.

They take what `subprocess.Popen` and `subprocess.run` take. The command is run by a fork of a
process that has imported TensorFlow and the package and run nothing of them
(`tests/preloaded_server.py`); one for each process of tests, started when it is first needed. What
a fork cannot do is started by `subprocess` itself: another program, other settings of libraries
that read them when they are imported, another directory of the package.

Not for tests of imports, of start-up, and of what a process does before TensorFlow is there.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from tests.paths import ROOT

# Before a test changes it, and before TensorFlow is imported.
_ENVIRON = dict(os.environ)
# Variables that the interpreter and libraries read when they start ...
_IMPORTS = (
    *("TF_", "TF2_", "XLA_", "KERAS_", "TPU_L", "CUDA_", "OMP_", "OPENBLAS_", "MKL_", "LD_"),
    *("PYTHON", "LC_", "LANG", "MPL", "PROTOCOL_BUFFERS_", "GRPC_"),
)
# ... but for those that are read later, or that a fork follows.
_LATER = ("TF_CONFIG", "CUDA_VISIBLE_DEVICES", "PYTHONPATH", "PYTHONUNBUFFERED")
# ... and JAX's, which no command imports.
_LATER += ("XLA_PYTHON_CLIENT_PREALLOCATE",)
# Names the directory of compiled programs that only this process may use, once it has trained.
_OWN = "TF_XLA_FLAGS"
# What a command sets before it imports TensorFlow (`tpu_tlm.devices.select`).
_SET_BY_COMMANDS = {"TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow"}
_STREAMS = ("stdin", "stdout", "stderr")


class _Server:
    """The process that forks; made in the process of the tests that asks it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        self._said = tempfile.TemporaryFile()
        command = [sys.executable, "-m", "tests.preloaded_server", str(theirs.fileno())]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**_SET_BY_COMMANDS, **_ENVIRON},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
        )
        theirs.close()
        self._answers = self._socket.makefile("rb")
        self.environ: dict[str, str] = self._answer()["environ"]

    def ask(self, request: dict[str, Any], *handles: int) -> dict[str, Any]:
        """The answer to a request with open files."""
        # A command and an environment are longer than what a socket is sure to take at once.
        with self._lock, os.fdopen(os.memfd_create("request"), "wb") as file:
            file.write(json.dumps(request).encode())
            file.flush()
            socket.send_fds(self._socket, [b"?"], [file.fileno(), *handles])
            return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            self._said.seek(0)
            raise RuntimeError(f"the server has ended: {self._said.read().decode()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it, and what it started."""
        if self.owner == os.getpid():
            self._answers.close()
            self._socket.close()
            self.process.wait()


_servers: list[_Server] = []


def server() -> _Server:
    """The server of this process."""
    if not _servers or _servers[-1].owner != os.getpid():
        _servers.append(_Server())
        atexit.register(_servers[-1].close)
    return _servers[-1]


def at_start() -> dict[str, str]:
    """The environment when the tests began, with which the server was started."""
    return dict(_ENVIRON)


def settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment by which imports may differ."""
    return {
        name: value
        for name, value in environ.items()
        if name.startswith(_IMPORTS) and name not in _LATER
    }


def _to_inherit(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment as it was before this process trained (`tpu_tlm.devices.program_cache`)."""
    given = dict(environ)
    if given.get(_OWN) == os.environ.get(_OWN):
        given.pop(_OWN, None)
        given |= {name: value for name, value in _ENVIRON.items() if name == _OWN}
    return given


def _can_be_forked(command: Sequence[object], environ: Mapping[str, str]) -> bool:
    """Whether a fork of the server is the process that the command would be."""
    if list(command[:2]) not in ([sys.executable, "-m"], [sys.executable, "-c"]):
        return False
    usual = (None, str(ROOT), _ENVIRON.get("PYTHONPATH"))
    if not hasattr(os, "pidfd_open") or environ.get("PYTHONPATH") not in usual:
        return False
    given, before, after = map(settings, (environ, _ENVIRON, server().environ))
    # TensorFlow sets some of them itself.
    names = {*given, *before, *after}
    return all(given.get(name) in (before.get(name), after.get(name)) for name in names)


class _Forked(subprocess.Popen):
    """A child of the server, with the pipes and the waiting of `subprocess`."""

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *given):  # type: ignore[no-untyped-def]
        _, _, _, *pipes = given[:9]
        streams = [end if end != -1 else i for i, end in enumerate(pipes[i] for i in (0, 3, 5))]
        self._server = server()
        request = {"command": list(map(str, args)), "cwd": str(cwd), "environ": dict(env)}
        request["session"] = self._session
        self.pid = self._server.ask(request, *streams)["pid"]
        self._ends = os.pidfd_open(self.pid)
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def __init__(self, command, *, session: bool, **how):  # type: ignore[no-untyped-def]
        self._session = session
        super().__init__(command, **how)

    def _ended(self, seconds: float | None) -> bool:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._ends, select.POLLIN)
            if not poll.poll(None if seconds is None else max(0.0, seconds) * 1000):
                return False
            with self._waitpid_lock:
                if self.returncode is None:
                    self.returncode = self._server.ask({"ended": self.pid})["code"]
                    os.close(self._ends)
        return True

    def _internal_poll(self, _deadstate: int | None = None) -> int | None:
        try:
            self._ended(0)
        except (OSError, ValueError, RuntimeError, AttributeError):
            if _deadstate is None:
                raise
            self.returncode = _deadstate
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if not self._ended(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode


def popen(command: Sequence[object], **how: Any) -> subprocess.Popen[Any]:
    """`subprocess.Popen`, from a fork of the server where that can be."""
    environ = how.pop("env", None)
    environ = _to_inherit(os.environ if environ is None else environ)
    plain = {"cwd", "text", "encoding", "errors", "bufsize", "start_new_session", *_STREAMS}
    if how.keys() <= plain and _can_be_forked(command, environ):
        session, cwd = how.pop("start_new_session", False), how.pop("cwd", None) or os.getcwd()
        return _Forked(command, session=session, env=environ, cwd=cwd, **how)
    return subprocess.Popen(list(map(str, command)), env=environ, **how)


def run(
    command: Sequence[object],
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **how: Any,
) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run`, from a fork of the server where that can be."""
    if input is not None:
        how["stdin"] = subprocess.PIPE
    if capture_output:
        how |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with popen(command, **how) as process:
        try:
            out, errors = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, errors)
    if check:
        done.check_returncode()
    return done
