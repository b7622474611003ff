"""Signals and preemption notices that stop a run, and the time that it has from then on."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tpu_tlm.errors import EXIT_PREEMPTED, TlmError

# The signals that stop a run, and the exit code of a run that they stopped: 128 + their number.
EXIT_CODES = {
    signal.SIGTERM: EXIT_PREEMPTED,
    signal.SIGINT: 128 + signal.SIGINT,
    signal.SIGHUP: 128 + signal.SIGHUP,
}
# Seconds between two requests to Google Cloud, whose shortest notice is 30 seconds.
_EVERY = 1.0
_PRODUCT = Path("/sys/class/dmi/id/product_name")
# Values of the metadata server with which the machine goes on (MIGRATE moves it while it runs), and
# with which it ends.
_GOES_ON = {"maintenance-event": ("NONE", "MIGRATE_ON_HOST_MAINTENANCE"), "preempted": ("FALSE",)}
_STOPS = {"maintenance-event": ("TERMINATE_ON_HOST_MAINTENANCE",), "preempted": ("TRUE",)}


def metadata_host(environ: Mapping[str, str], product: Path = _PRODUCT) -> str | None:
    """Address of Google Cloud's metadata server, from `GCE_METADATA_HOST` or on a machine of Google
    Cloud; None elsewhere."""
    if environ.get("GCE_METADATA_HOST"):
        return environ["GCE_METADATA_HOST"]
    try:
        return "metadata.google.internal" if "Google" in product.read_text() else None
    except OSError:
        return None


class PreemptionWatcher:
    """Watches for SIGTERM, SIGINT, SIGHUP and Google Cloud's notices inside a `with` block.

    `reason` is empty until the first one. From then on the process has `grace` seconds (0 = no
    limit, and none after SIGINT), after which it ends with the line and exit code of `late()`. A
    second SIGINT ends it at once with those of `abandon()`, but not inside `saving()`. Both are
    called in another thread.

    Python allows signal handlers in the main thread only: in another thread, only Google Cloud is
    watched. Signals that the process ignores (nohup) stay ignored.
    """

    def __init__(
        self,
        grace: float,
        late: Callable[[], TlmError],
        host: str | None = None,
        abandon: Callable[[], TlmError] | None = None,
    ) -> None:
        self.grace, self.late, self.abandon = grace, late, abandon or late
        self.reason = ""
        # A notice that has stopped this run before. On the same machine it is still set, and
        # stopping again would gain nothing.
        self.known = ""
        self._host = host
        self._over = threading.Event()
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup = -1
        self._signals: socket.socket | None = None
        self._timer: threading.Timer | None = None
        self._interrupts = 0
        self._saving = threading.Lock()

    @property
    def exit_code(self) -> int:
        """Exit code of a run that ends for `reason`: 128 + the signal's number, else 143."""
        last = self.reason.split(" ")[-1]
        return next((code for s, code in EXIT_CODES.items() if s.name == last), EXIT_PREEMPTED)

    def __enter__(self) -> PreemptionWatcher:
        if threading.current_thread() is threading.main_thread():
            # Python runs its handlers in the main thread after TensorFlow returns: a thread reads
            # the signals from a socket, so that the grace period starts at once.
            receiver, self._signals = socket.socketpair()
            self._signals.setblocking(False)
            for number in EXIT_CODES:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, lambda number, frame: None)
            self._wakeup = signal.set_wakeup_fd(self._signals.fileno(), warn_on_full_buffer=False)
            threading.Thread(
                target=self._hear, args=(receiver,), daemon=True, name="signals"
            ).start()
        if self._host:
            threading.Thread(target=self._watch, daemon=True, name="notices").start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._signals is not None:
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._signals.close()

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """A block that a second SIGINT does not interrupt."""
        with self._saving:
            yield

    def _hear(self, receiver: socket.socket) -> None:
        """Read the numbers of the signals that arrive."""
        with receiver:
            while numbers := receiver.recv(64):
                for number in numbers:
                    if number in self._before:
                        self._signalled(signal.Signals(number))

    def _signalled(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            _release_closed()
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts == 2:
                threading.Thread(target=self._abandon, daemon=True, name="abandon").start()
        self.give(number.name)

    def give(self, reason: str) -> None:
        """Stop the run for a reason; only the first call counts, and starts the grace period."""
        if self.reason:
            return
        self.reason = reason
        if self.grace and not reason.endswith(signal.SIGINT.name):
            self._timer = threading.Timer(self.grace, self._end, (self.late,))
            self._timer.daemon = True
            self._timer.start()

    def _abandon(self) -> None:
        if self._saving.locked():
            _say("a checkpoint is being written: the process ends when it is complete")
        with self._saving:
            self._end(self.abandon)

    def _end(self, why: Callable[[], TlmError]) -> None:
        """End the process, unless the block is over."""
        if self._over.is_set():
            return
        error = why()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        _say(f"error: {error}")
        os._exit(error.exit_code)

    def _watch(self) -> None:
        standing = {key for key in _GOES_ON if self.known.endswith(f"{key} = {self._value(key)}")}
        for key in standing:
            print(
                f"Google Cloud's notice {key}, which stopped this run before, is still set;"
                " continuing",
                flush=True,
            )
        unread: set[str] = set()
        while not self._over.wait(_EVERY):
            for key, quiet in _GOES_ON.items():
                value = self._value(key)
                if value in quiet:
                    standing.discard(key)
                elif value in _STOPS[key]:
                    if key not in standing:
                        self.give(f"Google Cloud's notice {key} = {value}")
                elif key not in unread:
                    # No answer, or that of some other server: not a notice.
                    unread.add(key)
                    _say(
                        f"warning: http://{self._host} does not answer {key}: only signals stop"
                        " this run in time"
                    )

    def _value(self, key: str) -> str | None:
        """The metadata server's value; None where it does not answer."""
        url = f"http://{self._host}/computeMetadata/v1/instance/{key}"
        request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        # No proxy: the server belongs to this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=5) as answer:
                return str(answer.read().decode().strip())
        except (OSError, ValueError, http.client.HTTPException):
            return None


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _release_closed() -> None:
    """Send further output to the null device where its terminal or the reader of its pipe is gone.

    Writing to it would raise an error in the middle of a save.
    """
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    closed = [d for d, event in poll.poll(0) if event & (select.POLLERR | select.POLLHUP)]
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in closed:
            os.dup2(null, descriptor)
    finally:
        os.close(null)
