"""Which process holds a lock, as text, and whether it is seen to live or to be dead."""

from __future__ import annotations

import os
import re
import socket

_TEXT = re.compile(r"process (\d+) on (.*)\nbegun (\d+)\n(?:machine (\S+)\n)?")


def describe() -> str:
    """This process: number, host name, time of its start and, where known, machine."""
    text = f"process {os.getpid()} on {socket.gethostname()}\nbegun {_begun(os.getpid())}\n"
    machine = _machine()
    return text + (f"machine {machine}\n" if machine else "")


def title(text: str) -> str:
    """The first line of a description, for a message."""
    return text.partition("\n")[0] or "another process"


def lives(text: str) -> bool | None:
    """Whether the described process runs: True or False on this machine, None where unknown.

    A pod that is made anew has its name again, and often its numbers, hence the time of the start.
    False is only said within one boot of one machine and one space of process numbers.
    """
    named = _TEXT.match(text)
    if named is None or named[2] != socket.gethostname():
        return None
    if named[3] == _begun(int(named[1])):
        return True
    return False if named[4] and named[4] == _machine() else None


def _begun(pid: int) -> str | None:
    """When a process of this machine began, in ticks of its clock; None where there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    # A process that ended and was not waited for holds nothing any more.
    return None if fields[0] in "ZX" else fields[19]


def _machine() -> str | None:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None
