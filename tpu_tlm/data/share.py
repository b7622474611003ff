"""One work on several machines: which parts are whose, and waiting for others.

Each of `of` processes does its parts into a work directory that all see; process 0 also does what
is done once. Each can be killed and run again by itself. Preprocessing: parts are tokenized, shards
are written once all parts are there, and process 0 packs what the parts left over and writes
`md.yml`. Learning a vocabulary: the words of parts are counted, and process 0 learns from all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tpu_tlm import filesystem

_POLL_SECONDS, _REMOTE_POLL_SECONDS = 1.0, 5.0
_NOTICE_SECONDS = 60.0


class CompleteElsewhere(Exception):
    """The dataset is complete: process 0 did not have to wait for this one."""


@dataclass(frozen=True)
class Share:
    """Process `index` of `of`.

    `complete`: whether the dataset is there. A process without shards of its own is not waited for,
    and the work directory goes with the end of process 0.
    """

    index: int = 0
    of: int = 1
    complete: Callable[[], bool] = lambda: False

    @property
    def leads(self) -> bool:
        """Whether this process does what is done once."""
        return self.index == 0

    def has(self, number: int) -> bool:
        """Whether the part or shard of that number is done by this process."""
        return number % self.of == self.index


def poll_seconds(directory: str) -> float:
    """How long to wait before looking again for what other processes write into a directory."""
    return _REMOTE_POLL_SECONDS if filesystem.is_remote(directory) else _POLL_SECONDS


def wait_until(
    ready: Callable[[], bool],
    what: str,
    notice: Callable[[str], None],
    share: Share,
    seconds: float = _POLL_SECONDS,
) -> None:
    """Wait for what other processes do; says so every minute.

    Raises `CompleteElsewhere` when the dataset is complete meanwhile.
    """
    said = time.monotonic() - _NOTICE_SECONDS + 5
    while not ready():
        if not share.leads and share.complete():
            raise CompleteElsewhere
        if time.monotonic() - said >= _NOTICE_SECONDS:
            said = time.monotonic()
            notice(f"waiting for {what}")
        time.sleep(seconds)
