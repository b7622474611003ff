"""The start of a job: its workers find one another, within a time, before TensorFlow would wait for them without end.

The chief listens on its own port of TF_CONFIG, the others call there. TensorFlow takes that port over afterwards; the lines stay open.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time

from tpu_tlm.distributed.peers import PATIENCE, Channel, WorkerGroup
from tpu_tlm.distributed.tf_config import Cluster
from tpu_tlm.errors import TlmError, UsageError

_TURN = 0.2
_QUIET = 3.0
# So long an answer may take, from a chief that hears others first.
_ANSWER = 20.0


def meet(cluster: Cluster, timeout: float, patience: float = PATIENCE) -> WorkerGroup:
    """Wait until all workers of the job are here, and keep the lines to them.

    timeout: seconds. Raises `TlmError` naming the workers that did not come, `UsageError` where TF_CONFIG differs between them.
    """
    begun = time.monotonic()
    channels = (
        _Chief(cluster, timeout).wait() if cluster.host == 0 else {0: _call(cluster, timeout)}
    )
    waited = time.monotonic() - begun
    if waited > _QUIET:
        print(f"all {len(cluster.addresses)} workers are here after {waited:.0f} s", flush=True)
    return WorkerGroup(cluster, channels, patience)


def _missing(cluster: Cluster, names: list[str], timeout: float, why: str = "") -> str:
    return (
        f"{len(names)} of {len(cluster.addresses)} workers did not come within {timeout:g} s: {', '.join(names)}{why}; "
        "see whether they run and reach one another at these addresses (--start_timeout waits longer)"
    )


class _Chief:
    """The chief's side: hears the others' hello, and sends them off together."""

    def __init__(self, cluster: Cluster, timeout: float) -> None:
        self.cluster, self.timeout = cluster, timeout
        self.deadline = time.monotonic() + timeout
        self.quiet_until = time.monotonic() + _QUIET
        self.here: dict[int, Channel] = {}

    def wait(self) -> dict[int, Channel]:
        with self._listener() as listener:
            listener.settimeout(_TURN)
            while len(self.here) + 1 < len(self.cluster.addresses):
                with contextlib.suppress(TimeoutError):
                    self._hear(Channel(listener.accept()[0]))
                self._forget()
                self._look_at_the_clock()
        for channel in self.here.values():
            channel.send({"go": True})
        return self.here

    def _listener(self) -> socket.socket:
        _, port = self.cluster.endpoint(0)
        both = socket.has_dualstack_ipv6()
        while True:
            try:
                return socket.create_server(
                    ("", port),
                    family=socket.AF_INET6 if both else socket.AF_INET,
                    dualstack_ipv6=both,
                )
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise TlmError(
                        f"{self.cluster.title(0)}: cannot listen on port {port}: {error.strerror or error}"
                    ) from None
            # Perhaps the same worker's process before this one, which is about to end.
            if time.monotonic() > self.deadline:
                raise TlmError(
                    f"{self.cluster.title(0)}: port {port} is taken by another process on this machine; end it"
                ) from None
            time.sleep(_TURN)

    def _hear(self, channel: Channel) -> None:
        hello = channel.receive(timeout=2.0) or {}
        host = hello.get("hello")
        if not isinstance(host, int) or not 0 < host < len(self.cluster.addresses):
            channel.close()
            return
        if hello.get("addresses") != list(self.cluster.addresses):
            channel.send(
                {
                    "no": f"TF_CONFIG of {self.cluster.title(host)} names other addresses than the chief's; all must be the same"
                }
            )
            channel.close()
            return
        if host in self.here:
            self.here.pop(host).close()
        self.here[host] = channel
        channel.send({"wait": True})

    def _forget(self) -> None:
        for host in [host for host, channel in self.here.items() if channel.closed()]:
            self.here.pop(host).close()

    def _names(self) -> list[str]:
        return [
            self.cluster.title(host)
            for host in range(1, len(self.cluster.addresses))
            if host not in self.here
        ]

    def _look_at_the_clock(self) -> None:
        now, names = time.monotonic(), self._names()
        if names and now > self.quiet_until:
            print(f"waiting up to {self.timeout:g} s for {', '.join(names)}", flush=True)
            self.quiet_until = self.deadline + 1.0
        if names and now > self.deadline:
            text = _missing(self.cluster, names, self.timeout)
            for channel in self.here.values():
                channel.send({"missing": text})
            raise TlmError(text)


def _call(cluster: Cluster, timeout: float) -> Channel:
    """A worker's side: calls the chief until it answers, and waits to be sent off or sent home."""
    deadline, quiet_until = time.monotonic() + timeout, time.monotonic() + _QUIET
    why = ""
    while (left := deadline - time.monotonic()) > 0.0:
        try:
            channel = Channel(socket.create_connection(cluster.endpoint(0), timeout=min(5.0, left)))
        except OSError as error:
            why = f" ({error.strerror or error})"
            if time.monotonic() > quiet_until:
                print(f"waiting up to {timeout:g} s for the {cluster.title(0)}", flush=True)
                quiet_until = deadline + 1.0
            time.sleep(_TURN)
            continue
        # On the machine itself a call to a port that nobody listens on can be connected to its own origin.
        if channel.socket.getsockname() == channel.socket.getpeername():
            channel.close()
            continue
        channel.send({"hello": cluster.host, "addresses": list(cluster.addresses)})
        if _sent_off(channel):
            return channel
        # Something else answers there: perhaps TensorFlow of the chief's process before this one.
        channel.close()
        why = " (something else answers there)"
        time.sleep(_TURN)
    raise TlmError(_missing(cluster, [cluster.title(0)], timeout, why))


def _sent_off(channel: Channel) -> bool:
    """Wait for the chief's word; False where what answers is no chief, or died. From its first answer on its clock counts, not ours."""
    message = channel.receive(timeout=_ANSWER)
    while message is not None:
        if "go" in message:
            return True
        if "no" in message:
            raise UsageError(message["no"])
        if "missing" in message:
            raise TlmError(message["missing"])
        message = channel.receive()
    return False
