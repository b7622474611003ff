"""Process 1 of a container: it gets no signal that it has no handler for, SIGKILL from inside included, and others' orphans."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import Any

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_below(argv: list[str] | None) -> int | None:
    """As process 1 run this same command in a child, which signals do end, and return its exit code; None in any other process.

    argv: what the command's `main` was given. A program that calls `main` with arguments of its own is no command, and goes on itself.
    """
    ours = argv is None or sys.argv[len(sys.argv) - len(argv) :] == argv
    return supervise([sys.executable, *sys.orig_argv[1:]]) if os.getpid() == 1 and ours else None


def supervise(command: list[str]) -> int:
    """Run a command to its end, hand SIGTERM, SIGINT and SIGHUP on to it, and return its exit code, of one that signal n ended 128 + n."""
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def hand_on(number: int, frame: Any) -> None:
        if process is None:
            early.append(number)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    before = {number: signal.signal(number, hand_on) for number in _FORWARDED}
    # In a session of its own it does not hear a terminal's Ctrl-C twice.
    process = subprocess.Popen(command, start_new_session=True)
    for number in early:
        hand_on(number, None)
    while True:
        pid, status = os.wait()
        if pid == process.pid:
            break
    process.returncode = code = os.waitstatus_to_exitcode(status)
    for number, handler in before.items():
        signal.signal(number, handler)
    return code if code >= 0 else 128 - code
