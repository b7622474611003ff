"""Calls of two threads, one at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class InTurn:
    """Makes calls in the order in which they were given, never two at a time.

    For a callback that is told of steps by one thread and of saves by another: the thread that
    trains does not wait while a save writes a file, and what it gave meanwhile is done after it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()

    def soon(self, call: Callable[[], None]) -> None:
        """Make a call now, or, while another thread is busy, at the next call of a method."""
        self._waiting.append(call)
        if self._lock.acquire(blocking=False):
            try:
                self._make()
            finally:
                self._lock.release()

    def now(self, call: Callable[[], None]) -> None:
        """Make the calls that wait, and then this one, before returning."""
        self._waiting.append(call)
        with self._lock:
            self._make()

    def _make(self) -> None:
        while self._waiting:
            self._waiting.popleft()()
