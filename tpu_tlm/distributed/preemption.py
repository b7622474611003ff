"""That this process is to stop soon: SIGTERM, or Google Cloud's notice; and the time it has from then on."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tpu_tlm.errors import TlmError

# Seconds between two questions to Google Cloud, whose shortest notice is 30 seconds.
_EVERY = 1.0
_PRODUCT = Path("/sys/class/dmi/id/product_name")
# What the metadata server says when the machine is to go on (MIGRATE moves it while it runs), and when it is not.
_GOES_ON = {"maintenance-event": ("NONE", "MIGRATE_ON_HOST_MAINTENANCE"), "preempted": ("FALSE",)}
_STOPS = {"maintenance-event": ("TERMINATE_ON_HOST_MAINTENANCE",), "preempted": ("TRUE",)}


def metadata_host(environ: Mapping[str, str], product: Path = _PRODUCT) -> str | None:
    """Google Cloud's metadata server, `GCE_METADATA_HOST` first; None on other machines."""
    if environ.get("GCE_METADATA_HOST"):
        return environ["GCE_METADATA_HOST"]
    try:
        return "metadata.google.internal" if "Google" in product.read_text() else None
    except OSError:
        return None


class PreemptionWatcher:
    """Collects notices in its block; `reason` is "" until the first.

    grace: seconds from the notice on (0 = no limit) after which the process ends with what `late()` gives: its line and exit code.
    Meant for the main thread; in another, where Python allows no signal handler, only Google Cloud is heard.
    """

    def __init__(self, grace: float, late: Callable[[], TlmError], host: str | None = None) -> None:
        self.grace, self.late = grace, late
        self.reason = ""
        # A notice for which this run has been stopped before: on the same machine it still stands, and stopping again gains nothing.
        self.known = ""
        self._host = host
        self._over = threading.Event()
        self._before: Any = None
        self._wakeup = -1
        self._signals: socket.socket | None = None
        self._timer: threading.Timer | None = None

    def __enter__(self) -> PreemptionWatcher:
        if threading.current_thread() is threading.main_thread():
            # Python runs its handlers in the main thread, once that comes out of TensorFlow: the clock must not wait for it.
            heard, self._signals = socket.socketpair()
            self._signals.setblocking(False)
            self._before = signal.signal(signal.SIGTERM, lambda number, frame: None)
            self._wakeup = signal.set_wakeup_fd(self._signals.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._hear, args=(heard,), daemon=True, name="signals").start()
        if self._host:
            threading.Thread(target=self._watch, daemon=True, name="notices").start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._signals is not None:
            signal.set_wakeup_fd(self._wakeup)
            signal.signal(signal.SIGTERM, self._before)
            self._signals.close()

    def _hear(self, heard: socket.socket) -> None:
        """Read the numbers of the signals that arrive."""
        with heard:
            while numbers := heard.recv(64):
                if signal.SIGTERM in numbers:
                    self.give("SIGTERM")

    def give(self, reason: str) -> None:
        """Take a notice; the first one counts, and starts the clock."""
        if self.reason:
            return
        self.reason = reason
        if self.grace:
            self._timer = threading.Timer(self.grace, self._end)
            self._timer.daemon = True
            self._timer.start()

    def _end(self) -> None:
        if self._over.is_set():
            return
        error = self.late()
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(error.exit_code)

    def _watch(self) -> None:
        standing = {key for key in _GOES_ON if self.known.endswith(f"{key} = {self._value(key)}")}
        for key in standing:
            print(
                f"Google Cloud's notice {key} still stands, for which this run was stopped before; going on",
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
                    # Nothing, or what some other server says in its place: no notice.
                    unread.add(key)
                    text = f"warning: http://{self._host} does not tell {key}: only SIGTERM stops this run in time"
                    print(text, file=sys.stderr, flush=True)

    def _value(self, key: str) -> str | None:
        """What the metadata server says; None where it does not answer."""
        url = f"http://{self._host}/computeMetadata/v1/instance/{key}"
        request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        # No proxy: this server is the machine's own.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=5) as answer:
                return str(answer.read().decode().strip())
        except (OSError, ValueError, http.client.HTTPException):
            return None
