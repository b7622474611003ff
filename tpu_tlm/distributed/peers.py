"""The processes of one job: agreement between device calls, and detection of a lost peer.

Every worker keeps one connection to the chief for the whole run, beside TensorFlow's collectives:
those cannot name the peer that died, cannot be interrupted, and hang when workers do not call them
equally often.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from tpu_tlm.distributed.channel import Channel
from tpu_tlm.distributed.tf_config import Cluster
from tpu_tlm.errors import EXIT_FAILURE, PeerFailed, PeerLost, Preempted, TlmError

# Seconds from a peer's death until this process is ended, if TensorFlow does not return by itself.
PATIENCE = 30.0
# Seconds to wait for the peer's name after TensorFlow reports a broken connection (keep-alives).
_UNTIL_KNOWN = 20.0
# The same for errors of any cause, NCCL's among them: our connection breaks as soon as theirs does.
_AT_ONCE = 2.0
# Seconds that a block without collectives, such as a save, may take after a peer's death.
_UNDISTURBED = 600.0
_AGAIN = (
    "start the job again: it continues from the last checkpoint "
    "(a TFJob with restartPolicy ExitCode does so by itself)"
)
# Exit codes that a peer may report. Anything else, 0 above all, counts as a failure (1).
_PEER_CODES = frozenset({1, 2, 129, 130, 137, 138, 143})
_LONGEST_TEXT = 2000


def _text(given: object) -> str:
    """A peer's message as one printable line of limited length."""
    line = " ".join(str(given).split())
    return "".join(c for c in line if c.isprintable())[:_LONGEST_TEXT]


def _reason(said: str) -> str:
    """What TensorFlow says of a failed step, without where in its graph that was."""
    where = ("Graph execution error", "Detected at node", "<stack traces", "[[", "Traceback")
    lines = [line.strip() for line in said.splitlines()]
    return _text(" ".join(line for line in lines if not line.startswith(where)))[:300]


def _code(given: object) -> int:
    if isinstance(given, int) and not isinstance(given, bool) and given in _PEER_CODES:
        return given
    return EXIT_FAILURE


class PeerGroup:
    """The processes of a job; this base class is a single process, which agrees with itself.

    A context manager around everything that the processes do together: on exit it waits for the
    others, or reports to them the error (see `explained`) that ended this process.
    """

    size = 1
    host = 0

    def title(self, host: int) -> str:
        """The name of a process in messages."""
        return "this process"

    def gather(self, value: Any) -> list[Any]:
        """All-gather of a JSON value: one per process, in the order of the hosts.

        Returns once all processes have called it. Raises `PeerLost` when another process is gone,
        `PeerFailed` when one ended with an error.
        """
        return [value]

    def explained(self, error: Exception) -> Exception:
        """The error to raise for one of TensorFlow's: `PeerLost` where a peer is gone."""
        return error

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """A block without collectives that is completed even if a peer dies during it.

        It has ten minutes from the peer's death.
        """
        yield

    def fail(self, error: BaseException) -> None:
        """Report to the others why this process ends."""

    def end_now(self) -> None:
        """End the process at once, if it is ending: TensorFlow's own exit waits for the others."""

    def leave(self, code: int = 0) -> None:
        """Wait until all processes are done; `code`: this process's exit code."""

    def __enter__(self) -> PeerGroup:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # All workers agree on a preemption; after any other error nobody is waited for.
        if error is None or isinstance(error, Preempted):
            self.leave(0 if error is None else error.exit_code)
            return
        why = self.explained(error) if isinstance(error, Exception) else error
        self.fail(why)
        if why is not error:
            raise why from error


class WorkerGroup(PeerGroup):
    """Several processes, connected.

    `channels`: by host; the chief's to every worker, or a worker's one to the chief (0).
    `patience`: seconds from a peer's death until this process is ended if it does not end itself.
    """

    def __init__(
        self, cluster: Cluster, channels: dict[int, Channel], patience: float = PATIENCE
    ) -> None:
        self.size, self.host = len(cluster.addresses), cluster.host
        self._cluster, self._channels, self._patience = cluster, channels, patience
        self._changed = threading.Condition()
        self._inbox: dict[int, deque[Any]] = {host: deque() for host in channels}
        self._done: set[int] = set()
        self._error: TlmError | None = None
        self._code: int | None = None
        self._busy = 0
        for host in channels:
            threading.Thread(
                target=self._listen, args=(host,), daemon=True, name=f"peer-{host}"
            ).start()

    def title(self, host: int) -> str:
        """The name of a process in messages: "worker 1 (host:port)"."""
        return self._cluster.title(host)

    def _listen(self, host: int) -> None:
        """Read one peer's messages to the end of its connection; runs in a thread per peer."""
        reason = "died or cannot be reached any more"
        try:
            while (message := self._channels[host].receive()) is not None:
                self._take(host, message)
        except Exception as error:  # a thread that ended unseen would leave a hang
            reason = f"sent what cannot be read ({type(error).__name__})"
        with self._changed:
            over = host in self._done
        if not over:
            self._stop(PeerLost(f"{self.title(host)} {reason}; {_AGAIN}"))

    def _take(self, host: int, message: dict[str, Any]) -> None:
        with self._changed:
            if "value" in message:
                self._inbox[host].append(message["value"])
            elif "bye" in message:
                self._done.add(host)
            self._changed.notify_all()
        if "failed" in message:
            self._stop(PeerFailed(_text(message["failed"]), _code(message.get("code"))))
        elif "lost" in message:
            self._stop(PeerLost(_text(message["lost"])))

    def _stop(self, error: TlmError) -> None:
        """A peer is gone or ending: the first news counts, and the chief passes it on."""
        with self._changed:
            if self._error is not None or self._code is not None:
                return
            self._error, self._code = error, error.exit_code
            self._changed.notify_all()
        if self.host == 0:
            self._tell(error)
        threading.Thread(target=self._end_late, daemon=True, name="peer-end").start()

    def _tell(self, error: TlmError) -> None:
        if isinstance(error, PeerLost):
            message: dict[str, Any] = {"lost": str(error)}
        else:
            message = {"failed": str(error), "code": error.exit_code}
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
        """End the process at once with its exit code, if it is ending."""
        if self._code is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self._code)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def gather(self, value: Any) -> list[Any]:
        """All-gather of a JSON value; see `PeerGroup.gather`."""
        if self.host:
            self._channels[0].send({"value": value})
            everything = self._next(0)
            if not isinstance(everything, list) or len(everything) != self.size:
                raise PeerLost(f"{self.title(0)} sent an answer of another form; {_AGAIN}")
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
        """The error to raise for one of TensorFlow's: `PeerLost` where a peer is gone."""
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
        said = _reason(str(error)) or type(error).__name__
        return PeerLost(f"the connection to another worker broke ({said}); {_AGAIN}")

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """A block that is completed even if a peer dies during it; see `PeerGroup`."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    def fail(self, error: BaseException) -> None:
        """Report to the others why this process ends."""
        with self._changed:
            told = self._error is not None
            interrupted = isinstance(error, KeyboardInterrupt)
            self._code = getattr(error, "exit_code", 130 if interrupted else EXIT_FAILURE)
        if told:
            return
        text = f"{self.title(self.host)} failed: {str(error) or type(error).__name__}"
        lost = isinstance(error, PeerLost)
        self._tell(PeerLost(text) if lost else PeerFailed(text, self._code or EXIT_FAILURE))

    def leave(self, code: int = 0) -> None:
        """Wait until all processes are done; from then on a closed connection is no loss."""
        for channel in self._channels.values() if self.host else ():
            channel.send({"bye": True})
        with self._changed:
            self._changed.wait_for(lambda: len(self._done) == len(self._channels) or self._error)
            self._raise()
            self._code = code
        for channel in self._channels.values() if not self.host else ():
            channel.send({"bye": True})
