"""An end for calls into TensorFlow that may never come back."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

# A process of its own: TensorFlow holds Python's lock while it connects, so no thread of this one could act.
_GUARD = """
import os, select, sys
if not select.select([0], [], [], float(sys.argv[1]))[0]:
    os.write(2, os.fsencode("error: " + sys.argv[3] + "\\n"))
    os.kill(int(sys.argv[2]), 9)
"""


@contextlib.contextmanager
def guarded(seconds: float, text: str) -> Iterator[None]:
    """A block that may take so many seconds: after them the process is killed (exit code 137), with `text` as its one line.

    The kernel kills no process 1 of a container in this way: there a command has to run below it (`init.py`).
    """
    command = [sys.executable, "-I", "-S", "-c", _GUARD, str(seconds), str(os.getpid()), text]
    # Its standard input ends when the block does, or this process.
    with subprocess.Popen(command, stdin=subprocess.PIPE):
        yield
