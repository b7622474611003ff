"""Ports for tests that nobody else takes in the meantime."""

from __future__ import annotations

import contextlib
import random
import socket

# Below those that the system hands out to calls, so that no call takes one between its choice and
# its use.
_RANGE = range(20000, 30000)


def free_ports(count: int) -> list[int]:
    """So many different ports of this machine on which nobody listens, chosen at random."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_RANGE, 200):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"{len(found)} free ports found, {count} needed")
