"""Rendezvous: the workers of a job find one another within a time limit, before TensorFlow starts.

The chief listens on its own port of TF_CONFIG and the others connect to it. TensorFlow takes that
port over afterwards; the connections stay open (`peers.py`).
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections import deque

from tpu_tlm.distributed.channel import Channel
from tpu_tlm.distributed.handshake import Trust, accept, environment_trust, introduce
from tpu_tlm.distributed.peers import PATIENCE, WorkerGroup
from tpu_tlm.distributed.tf_config import Cluster
from tpu_tlm.errors import TlmError, UsageError

_POLL_SECONDS = 0.2
_QUIET_SECONDS = 3.0
# Connections in a handshake at a time; above that the oldest one is closed.
_MAX_PENDING = 128


def meet(
    cluster: Cluster,
    timeout: float,
    patience: float = PATIENCE,
    *,
    trust_network: bool = False,
) -> WorkerGroup:
    """Wait until all workers of the job are connected.

    `timeout`: seconds. Raises `TlmError` naming the workers that are missing, `UsageError` where
    TF_CONFIG differs between them or a job across machines has no token (`handshake.trust_of`).
    """
    started = time.monotonic()
    trust = environment_trust(cluster, trust_network)
    if cluster.host == 0:
        channels = _Chief(cluster, timeout, trust).wait()
    else:
        channels = {0: _connect(cluster, timeout, trust)}
    waited = time.monotonic() - started
    if waited > _QUIET_SECONDS:
        count = len(cluster.addresses)
        print(f"all {count} workers are connected after {waited:.0f} s", flush=True)
    return WorkerGroup(cluster, channels, patience)


def _missing(cluster: Cluster, names: list[str], timeout: float, why: str = "") -> str:
    return (
        f"{len(names)} of {len(cluster.addresses)} workers did not come within {timeout:g} s: "
        f"{', '.join(names)}{why}; check that they run and reach one another at these addresses "
        "(--start_timeout waits longer)"
    )


class _Chief:
    """The chief's side: handshakes run in threads of their own, so a slow peer delays nobody."""

    def __init__(self, cluster: Cluster, timeout: float, trust: Trust) -> None:
        self.cluster, self.timeout, self.trust = cluster, timeout, trust
        self.deadline = time.monotonic() + timeout
        self.quiet_until = time.monotonic() + _QUIET_SECONDS
        self.connected: dict[int, Channel] = {}
        self.pending: deque[Channel] = deque()
        self.changed = threading.Lock()
        self.over = False

    def wait(self) -> dict[int, Channel]:
        try:
            with self._listener() as listener:
                listener.settimeout(_POLL_SECONDS)
                while not self._complete():
                    try:
                        connection, _ = listener.accept()
                    except OSError:  # a time-out, or a connection that was reset meanwhile
                        pass
                    else:
                        self._admit(connection)
                    self._check_deadline()
        finally:
            with self.changed:
                self.over = True
                for channel in self.pending:
                    channel.close()
        for channel in self.connected.values():
            channel.send({"go": True})
        return self.connected

    def _complete(self) -> bool:
        with self.changed:
            for host in [host for host, channel in self.connected.items() if channel.closed()]:
                self.connected.pop(host).close()
            return len(self.connected) + 1 >= len(self.cluster.addresses)

    def _listener(self) -> socket.socket:
        name, port = self.cluster.endpoint(0)
        both = socket.has_dualstack_ipv6() and not self.trust.loopback
        family = socket.AF_INET6 if both or ":" in name else socket.AF_INET
        address = name if self.trust.loopback else ""
        while True:
            try:
                return socket.create_server((address, port), family=family, dualstack_ipv6=both)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise TlmError(
                        f"{self.cluster.title(0)}: cannot listen on port {port}: "
                        f"{error.strerror or error}"
                    ) from None
            # Perhaps the previous process of this worker, which is about to end.
            if time.monotonic() > self.deadline:
                raise TlmError(
                    f"{self.cluster.title(0)}: port {port} is taken by another process on this "
                    "machine; end it"
                ) from None
            time.sleep(_POLL_SECONDS)

    def _admit(self, connection: socket.socket) -> None:
        try:
            channel = Channel(connection)
        except OSError:  # reset before it was set up
            connection.close()
            return
        with self.changed:
            self.pending.append(channel)
            oldest = self.pending.popleft() if len(self.pending) > _MAX_PENDING else None
        if oldest is not None:
            oldest.close()
        threading.Thread(
            target=self._handshake, args=(channel,), daemon=True, name="rendezvous"
        ).start()

    def _handshake(self, channel: Channel) -> None:
        host = None
        try:
            host = accept(channel, self.cluster, self.trust)
        finally:
            joined = False
            with self.changed:
                if channel in self.pending:
                    self.pending.remove(channel)
                # A place is free only once the connection that holds it is gone.
                holder = self.connected.get(host) if host is not None else None
                free = holder is None or holder.closed()
                if host is not None and free and not self.over:
                    self.connected[host] = channel
                    joined = True
            if joined:
                channel.send({"wait": True})
                if holder is not None:
                    holder.close()
            else:
                channel.close()

    def _check_deadline(self) -> None:
        now = time.monotonic()
        with self.changed:
            names = [
                self.cluster.title(host)
                for host in range(1, len(self.cluster.addresses))
                if host not in self.connected
            ]
            connected = list(self.connected.values())
        if names and now > self.quiet_until:
            print(f"waiting up to {self.timeout:g} s for {', '.join(names)}", flush=True)
            self.quiet_until = self.deadline + 1.0
        if names and now > self.deadline:
            text = _missing(self.cluster, names, self.timeout)
            for channel in connected:
                channel.send({"missing": text})
            raise TlmError(text)


def _connect(cluster: Cluster, timeout: float, trust: Trust) -> Channel:
    """A worker's side: connect to the chief, retrying, and wait for its go."""
    deadline = time.monotonic() + timeout
    quiet_until = time.monotonic() + _QUIET_SECONDS
    why = said = ""
    while (left := deadline - time.monotonic()) > 0.0:
        try:
            sock = socket.create_connection(cluster.endpoint(0), timeout=min(5.0, left))
            channel = Channel(sock)
        except (OSError, UnicodeError) as error:
            why = f" ({getattr(error, 'strerror', None) or error})"
            if time.monotonic() > quiet_until:
                print(f"waiting up to {timeout:g} s for the {cluster.title(0)}", flush=True)
                quiet_until = deadline + 1.0
            time.sleep(_POLL_SECONDS)
            continue
        # On one machine, a connection to a port without a listener can reach its own origin.
        if channel.socket.getsockname() == channel.socket.getpeername():
            channel.close()
            continue
        reason = introduce(channel, cluster, trust)
        if not reason and _told_to_go(channel):
            return channel
        channel.close()
        reason = reason or "the connection was closed"
        why = f" ({reason})"
        if reason != said and time.monotonic() > quiet_until:
            print(f"{cluster.title(0)}: {reason}; trying again", flush=True)
            said = reason
        time.sleep(_POLL_SECONDS)
    raise TlmError(_missing(cluster, [cluster.title(0)], timeout, why))


def _told_to_go(channel: Channel) -> bool:
    """Wait for the authenticated chief's word; from here on its deadline counts, not ours."""
    while (message := channel.receive()) is not None:
        if "go" in message:
            return True
        if "no" in message:
            raise UsageError(str(message["no"]))
        if "missing" in message:
            raise TlmError(str(message["missing"]))
    return False
