"""A time limit for calls into TensorFlow that may never return."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

# A process of its own: TensorFlow holds Python's lock while it connects, so no thread could act.
_WATCHDOG = """
import os, select, sys
if not select.select([0], [], [], float(sys.argv[1]))[0]:
    os.write(2, os.fsencode("error: " + sys.argv[3] + "\\n"))
    os.kill(int(sys.argv[2]), 9)
"""


@contextlib.contextmanager
def guarded(seconds: float, text: str) -> Iterator[None]:
    """Kill this process (exit code 137) with `text` as its one line if the block takes longer.

    `seconds`: the limit. The kernel does not let process 1 of a container be killed in this way:
    there a command runs in a child process (`pid1.py`).
    """
    command = [sys.executable, "-I", "-S", "-c", _WATCHDOG, str(seconds), str(os.getpid()), text]
    # Its standard input ends when the block does, or this process.
    with subprocess.Popen(command, stdin=subprocess.PIPE):
        yield
