"""The processes of one job speaking with one another: agreeing between device calls, and noticing that one is gone.

A line from every worker to the chief, kept open for the whole run: TensorFlow's own collectives cannot name who died, cannot be
interrupted, and hang where workers do not call them equally often.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from tpu_tlm.distributed.tf_config import Cluster
from tpu_tlm.errors import PeerFailed, PeerLost, Preempted, TlmError

# Longest time between a death of another process and this one's end, when TensorFlow does not come back by itself.
PATIENCE = 30.0
# Longest time between TensorFlow's noticing that another process is gone and our knowing which: keep-alives below.
_UNTIL_KNOWN = 20.0
# The same for errors that may have any cause, NCCL's among them: our own line breaks as soon as its lines do.
_AT_ONCE = 2.0
# Longest time that a block which calls no collective, such as a save, may take after another process' death.
_UNDISTURBED = 600.0
_AGAIN = "start the job again: it continues from the last checkpoint (a TFJob with restartPolicy ExitCode does so by itself)"
_LONGEST_LINE = 1 << 20


class Channel:
    """A socket that carries JSON objects, one a line."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A machine that lost its power says nothing: it counts as gone after 5 + 3 * 3 seconds.
        for name, value in (
            ("TCP_KEEPIDLE", 5),
            ("TCP_KEEPINTVL", 3),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", 14000),
        ):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.socket = sock
        self._lines = sock.makefile("rb")
        self._sending = threading.Lock()

    def send(self, message: dict[str, Any]) -> bool:
        """Whether it could be sent: not when the other side is gone, which its reader will find."""
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")
            return True
        return False

    def receive(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next message; None at the end of the line, on a time-out in seconds, and where the other side speaks something else."""
        try:
            self.socket.settimeout(timeout)
            line = self._lines.readline(_LONGEST_LINE)
            loaded = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            return None
        return loaded if isinstance(loaded, dict) else None

    def closed(self) -> bool:
        """Whether the other side hung up, nothing being unread."""
        self.socket.settimeout(None)
        try:
            return self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._lines.close()
        self.socket.close()


class PeerGroup:
    """The processes of a job; this base is a process alone, which agrees with itself.

    A context around all that they do together: at its end it waits for the others, or tells them the error, `explained`, that ended it.
    """

    size = 1
    host = 0

    def title(self, host: int) -> str:
        """How messages call one of the processes."""
        return "this process"

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value (what JSON can hold), in the order of the hosts, once all have called this.

        Raises `PeerLost` when another process is gone, `PeerFailed` when one ended with an error.
        """
        return [value]

    def explained(self, error: Exception) -> Exception:
        """What to raise for an error of TensorFlow's: where another process is gone, that."""
        return error

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """A block that comes to its end even when another process dies meanwhile, if that is within ten minutes: it calls no collective."""
        yield

    def fail(self, error: BaseException) -> None:
        """Tell the others why this process ends."""

    def end_now(self) -> None:
        """End the process at once, if it was to end: TensorFlow's own end waits for the others, without end."""

    def leave(self, code: int = 0) -> None:
        """Wait until all have come to their end, this process with an exit code."""

    def __enter__(self) -> PeerGroup:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # All workers agree on being pre-empted; after any other error the others wait for nothing.
        if error is None or isinstance(error, Preempted):
            self.leave(0 if error is None else error.exit_code)
            return
        why = self.explained(error) if isinstance(error, Exception) else error
        self.fail(why)
        if why is not error:
            raise why from error


class WorkerGroup(PeerGroup):
    """Several processes. `channels`: the chief's to each other host by number, or a worker's to the chief (0).

    `patience`: seconds from another process' death until this one is ended, if it does not come to that by itself.
    """

    def __init__(
        self, cluster: Cluster, channels: dict[int, Channel], patience: float = PATIENCE
    ) -> None:
        self.size, self.host = len(cluster.addresses), cluster.host
        self._cluster, self._channels, self._patience = cluster, channels, patience
        self._changed = threading.Condition()
        self._inbox: dict[int, deque[Any]] = {host: deque() for host in channels}
        self._said_bye: set[int] = set()
        self._error: TlmError | None = None
        self._code: int | None = None
        self._busy = 0
        for host in channels:
            threading.Thread(
                target=self._listen, args=(host,), daemon=True, name=f"team-{host}"
            ).start()

    def title(self, host: int) -> str:
        """How messages call one of the processes: "worker 1 (host:port)"."""
        return self._cluster.title(host)

    def _listen(self, host: int) -> None:
        while message := self._channels[host].receive():
            with self._changed:
                if "value" in message:
                    self._inbox[host].append(message["value"])
                elif "bye" in message:
                    self._said_bye.add(host)
                self._changed.notify_all()
            if "failed" in message:
                self._stop(PeerFailed(message["failed"], message["code"]))
            elif "lost" in message:
                self._stop(PeerLost(message["lost"]))
        with self._changed:
            over = host in self._said_bye
        if not over:
            self._stop(PeerLost(f"{self.title(host)} died or cannot be reached any more; {_AGAIN}"))

    def _stop(self, error: TlmError) -> None:
        """Another process is gone or about to go: the first news of it counts, and the chief passes it on."""
        with self._changed:
            if self._error is not None or self._code is not None:
                return
            self._error, self._code = error, error.exit_code
            self._changed.notify_all()
        if self.host == 0:
            self._tell(error)
        threading.Thread(target=self._end_late, daemon=True, name="team-end").start()

    def _tell(self, error: TlmError) -> None:
        known = isinstance(error, PeerLost)
        message = {"lost": str(error)} if known else {"failed": str(error), "code": error.exit_code}
        for channel in self._channels.values():
            channel.send(message)

    def _end_late(self) -> None:
        """TensorFlow may wait for ever for a process that is gone: end this one then."""
        time.sleep(self._patience)
        deadline = time.monotonic() + _UNDISTURBED
        while self._busy and time.monotonic() < deadline:
            time.sleep(0.2)
        print(f"error: {self._error}", file=sys.stderr, flush=True)
        self.end_now()

    def end_now(self) -> None:
        """End the process at once, if it was to end, with the exit code that its end has."""
        if self._code is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self._code)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value, in the order of the hosts, once all have called this; see `PeerGroup`."""
        if self.host:
            self._channels[0].send({"value": value})
            everything: list[Any] = self._next(0)
            return everything
        gathered = [value, *(self._next(host) for host in sorted(self._channels))]
        for channel in self._channels.values():
            channel.send({"value": gathered})
        return gathered

    def _next(self, host: int) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._inbox[host] or self._error)
            self._raise()
            return self._inbox[host].popleft()

    def explained(self, error: Exception) -> Exception:
        """What to raise for an error of TensorFlow's: where another process is gone, that."""
        if isinstance(error, TlmError) or "tensorflow" not in sys.modules:
            return error
        import tensorflow as tf

        if not isinstance(error, tf.errors.OpError):
            return error
        others = (
            tf.errors.UnavailableError,
            tf.errors.AbortedError,
            tf.errors.CancelledError,
            tf.errors.DeadlineExceededError,
        )
        broken = isinstance(error, others)
        with self._changed:
            self._changed.wait_for(
                lambda: self._error, timeout=_UNTIL_KNOWN if broken else _AT_ONCE
            )
            if self._error is not None:
                return self._error
        if not broken:
            return error
        said = str(error).strip().splitlines() or [type(error).__name__]
        return PeerLost(f"the connection to another worker broke ({said[-1][:200]}); {_AGAIN}")

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """A block that comes to its end even when another process dies meanwhile."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    def fail(self, error: BaseException) -> None:
        """Tell the others why this process ends."""
        with self._changed:
            told, self._code = (
                self._error is not None,
                getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1),
            )
        if not told:
            text = f"{self.title(self.host)} failed: {str(error) or type(error).__name__}"
            self._tell(
                PeerLost(text) if isinstance(error, PeerLost) else PeerFailed(text, self._code)
            )

    def leave(self, code: int = 0) -> None:
        """Wait until all have come to their end, this process with an exit code; from then on nobody misses anybody."""
        for channel in self._channels.values() if self.host else ():
            channel.send({"bye": True})
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._said_bye) == len(self._channels) or self._error
            )
            self._raise()
            self._code = code
        for channel in self._channels.values() if not self.host else ():
            channel.send({"bye": True})
