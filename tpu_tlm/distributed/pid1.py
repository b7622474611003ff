"""Running as process 1 of a container.

The kernel delivers no signal to process 1 that it has no handler for, not even a SIGKILL from
inside the container, and makes it the parent of orphaned processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import Any

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_below(argv: list[str] | None) -> int | None:
    """As process 1, run this same command in a child process and return its exit code.

    Returns None in any other process. `argv`: the arguments of the command's `main`; a program that
    calls `main` with arguments of its own is not a command and is left alone.
    """
    ours = argv is None or sys.argv[len(sys.argv) - len(argv) :] == argv
    return supervise([sys.executable, *sys.orig_argv[1:]]) if os.getpid() == 1 and ours else None


def supervise(command: list[str]) -> int:
    """Run a command to its end, forwarding SIGTERM, SIGINT and SIGHUP; return its exit code.

    128 + n for a command that signal n ended.
    """
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, frame: Any) -> None:
        if process is None:
            early.append(number)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    # In a session of its own it does not receive a terminal's Ctrl-C twice.
    process = subprocess.Popen(command, start_new_session=True)
    for number in early:
        forward(number, None)
    while True:
        pid, status = os.wait()
        if pid == process.pid:
            break
    process.returncode = code = os.waitstatus_to_exitcode(status)
    for number, handler in before.items():
        signal.signal(number, handler)
    return code if code >= 0 else 128 - code
