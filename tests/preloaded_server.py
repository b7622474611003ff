"""The server of `tests.preloaded`: imports everything, runs nothing, and forks what it is asked.

    python -m tests.preloaded_server SOCKET

A fork of it is a fresh process without the seconds that the imports take. Each request is a byte
with open files: JSON, and for a new process its standard input, output and error. Each answer is a
line of JSON. The server ends with the socket, and its children with it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
import threading
import types
from typing import Any

import numpy as np

from tests.campaign.forked import preload
from tests.paths import ROOT
from tpu_tlm.config.command_table import COMMANDS
from tpu_tlm.config.imports import import_quickly

_PR_SET_PDEATHSIG = 1
# What a run imports when it first needs it.
_LATE = ("matplotlib.backends.backend_svg",)


def main(handle: int) -> None:
    """Serve; returns at the end of the socket, and in each child when its program has ended."""
    import_quickly()
    preload()
    for name in _LATE:
        importlib.import_module(name)
    for name in COMMANDS:
        # `python -m` must find the module of a command not yet imported.
        sys.modules.pop(f"tpu_tlm.{name}", None)
    # The terminal's Ctrl-C is for the process of the tests, which ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A collection in a child need not look at what the imports made, nor copy its pages.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=handle) as connection:
        _answer(connection, {"environ": dict(os.environ)})
        request = _serve(connection)
    if request is not None:
        _run(request)


def _answer(connection: socket.socket, value: dict[str, Any]) -> None:
    connection.sendall(json.dumps(value).encode() + b"\n")


def _serve(connection: socket.socket) -> dict[str, Any] | None:
    """Answer requests until the socket ends; in a child, return the request that it is to run."""
    parent = os.getpid()
    while True:
        asked, handles, _, _ = socket.recv_fds(connection, 1, 4)
        if not asked:
            return None
        with open(handles[0], "rb") as file:
            file.seek(0)
            request: dict[str, Any] = json.load(file)
        if "ended" in request:
            _, status = os.waitpid(request["ended"], 0)
            _answer(connection, {"code": os.waitstatus_to_exitcode(status)})
            continue
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            for number, handle in enumerate(handles[1:]):
                os.dup2(handle, number)
        for handle in handles[1:]:
            os.close(handle)
        if pid == 0:
            return request
        _answer(connection, {"pid": pid})


def _run(request: dict[str, Any]) -> None:
    """Become what `subprocess` would have started, and run it."""
    kind, program, *arguments = request["command"][1:]
    if request["session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environ"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    _open_streams(bool(os.environ.get("PYTHONUNBUFFERED")))
    tempfile.tempdir = None
    np.random.seed()  # as the import of a process of its own would
    sys.orig_argv[:] = request["command"]
    sys.argv[:] = [kind, *arguments]
    sys.path[0] = {"-m": os.getcwd(), "-c": ""}[kind]
    if os.environ.get("PYTHONPATH") == str(ROOT):
        sys.path.insert(1, str(ROOT))
    code = 0
    try:
        if kind == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            space = types.ModuleType("__main__")
            sys.modules["__main__"] = space
            exec(compile(program, "<string>", "exec"), space.__dict__)
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        code = end.code or 0
    _end(code)


def _end(code: int) -> None:
    """End as the interpreter does, but for the 0.4 seconds in which it takes its modules apart."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _open_streams(unbuffered: bool) -> None:
    """Standard streams of this process's own, as the interpreter makes them at its start."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        old = getattr(sys, f"__{name}__")
        raw = unbuffered and mode == "w"
        binary: Any = open(number, f"{mode}b", buffering=0 if raw else -1, closefd=False)
        stream = io.TextIOWrapper(
            binary,
            old.encoding,
            old.errors,
            line_buffering=name == "stderr" or os.isatty(number),
            write_through=raw,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    main(int(sys.argv[1]))
