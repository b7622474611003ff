"""Strangers at the chief's port: whatever they send, the job's own workers meet and agree."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.distributed.test_peers import at_once, clusters
from tpu_tlm.distributed import handshake
from tpu_tlm.distributed.channel import MAX_DEPTH, Channel, mac, parse
from tpu_tlm.distributed.handshake import Trust, introduce, job_digest, trust_of
from tpu_tlm.distributed.peers import WorkerGroup
from tpu_tlm.distributed.rendezvous import meet
from tpu_tlm.distributed.tf_config import Cluster
from tpu_tlm.errors import PeerFailed, PeerLost, TlmError, UsageError

TOKEN = "0123456789abcdef0123456789abcdef"
Attack = Callable[[Cluster], None]


@contextlib.contextmanager
def dialled(cluster: Cluster) -> Iterator[socket.socket]:
    """A connection to the chief, retried until it listens."""
    deadline = time.monotonic() + 10
    while True:
        try:
            with socket.create_connection(cluster.endpoint(0), timeout=5) as sock:
                yield sock
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _send(*lines: bytes) -> Attack:
    def attack(cluster: Cluster) -> None:
        with dialled(cluster) as sock, contextlib.suppress(OSError):
            for line in lines:
                sock.sendall(line)
            time.sleep(0.1)

    return attack


def _tls(cluster: Cluster) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with dialled(cluster) as sock, contextlib.suppress(OSError):
        sock.settimeout(1.0)
        context.wrap_socket(sock)


def _many(cluster: Cluster) -> None:
    """More silent connections than the chief holds in a handshake."""
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            with contextlib.suppress(OSError):
                stack.enter_context(dialled(cluster))
        time.sleep(0.3)


def _drip(cluster: Cluster) -> None:
    with dialled(cluster) as sock, contextlib.suppress(OSError):
        for _ in range(20):
            sock.sendall(b"x")
            time.sleep(0.05)


def _forged(cluster: Cluster) -> None:
    """A hello of the right form by somebody who does not know the token."""
    with dialled(cluster) as sock:
        assert introduce(Channel(sock), cluster, Trust(b"a guess at the token", False)) != ""


def _other_job(cluster: Cluster) -> None:
    with dialled(cluster) as sock:
        other = Trust(TOKEN[::-1].encode(), False)
        assert introduce(Channel(sock), cluster, other) != ""


def _replayed(cluster: Cluster) -> None:
    """A worker's hello, recorded from an earlier connection."""
    with dialled(cluster) as sock:
        challenge = (Channel(sock).receive(5.0) or {})["challenge"]
    job, nonce = job_digest(cluster), "0" * 32
    proof = mac(TOKEN.encode(), "worker", challenge, nonce, "1", job)
    with dialled(cluster) as sock:
        channel = Channel(sock)
        channel.receive(5.0)
        channel.send({"hello": 1, "job": job, "nonce": nonce, "proof": proof})
        assert channel.receive(5.0) == {"refused": "token"}


ATTACKS: dict[str, Attack] = {
    "nothing": _send(),
    "garbage": _send(bytes(range(256)) * 50),
    "http": _send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "tls": _tls,
    "slow": _drip,
    "many": _many,
    "deep": _send(b"[" * 100_000 + b"\n"),
    "long": _send(b"x" * 200_000),
    "not an object": _send(b"[1]\n", b"3\n"),
    "wrong types": _send(
        json.dumps({"hello": True, "job": 1, "nonce": [], "proof": {}}).encode() + b"\n"
    ),
    "huge number": _send(b'{"hello": ' + b"9" * 3000 + b"}\n"),
    "success": _send(b'{"hello": 1, "proof": "x"}\n', b'{"failed": "all is well", "code": 0}\n'),
    "not ascii": _send(
        json.dumps({"hello": 1, "job": "x", "nonce": "y", "proof": "\u00e9"}).encode() + b"\n"
    ),
    "replayed": _replayed,
    "forged": _forged,
    "another job": _other_job,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_strangers_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(handshake.TOKEN, TOKEN)
    chief, worker = clusters(2)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(at_once([lambda: meet(chief, 20.0)])))
    thread.start()
    ATTACKS[name](worker)
    started = time.monotonic()
    found += at_once([lambda: meet(worker, 20.0)])
    thread.join(20)
    assert time.monotonic() - started < 5, "strangers delayed the job"
    assert [type(member) for member in found] == [WorkerGroup] * 2
    members = sorted(found, key=lambda member: member.host)
    assert at_once([lambda m=m: m.gather(m.host) for m in members]) == [[0, 1]] * 2
    at_once([m.leave for m in members])


def test_a_stranger_that_only_talks_does_not_hold_up_the_time_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(handshake.TOKEN, TOKEN)
    chief, worker = clusters(2)
    stop = threading.Event()

    def drip() -> None:
        with dialled(worker) as sock, contextlib.suppress(OSError):
            while not stop.wait(0.1):
                sock.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    started = time.monotonic()
    with pytest.raises(TlmError, match="1 of 2 workers did not come within 1 s"):
        meet(chief, 1.0)
    assert time.monotonic() - started < 4
    stop.set()
    thread.join()


def test_a_place_that_is_taken_is_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(handshake.TOKEN, TOKEN)
    chief, first, second = clusters(3)
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.extend(at_once([lambda: meet(chief, 20.0)])))
    waiting.start()
    with dialled(first) as sock:
        holder = Channel(sock)
        assert introduce(holder, first, Trust(TOKEN.encode(), False)) == ""
        assert holder.receive(5.0) == {"wait": True}
        with pytest.raises(TlmError, match="chief .*connection was closed"):
            meet(first, 1.0)
        assert holder.receive(0.2) is None and not holder.closed()
    found += at_once([lambda: meet(first, 20.0), lambda: meet(second, 20.0)])
    waiting.join(20)
    assert [type(member) for member in found] == [WorkerGroup] * 3


def test_another_token_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    chief, worker = clusters(2)
    monkeypatch.setenv(handshake.TOKEN, TOKEN)
    thread = threading.Thread(target=lambda: at_once([lambda: meet(chief, 3.0)]))
    thread.start()
    time.sleep(0.5)
    monkeypatch.setenv(handshake.TOKEN, TOKEN[::-1])
    with pytest.raises(TlmError, match=handshake.TOKEN):
        meet(worker, 1.0)
    thread.join()


@pytest.mark.parametrize(
    ("code", "taken"), [(0, 1), (2, 2), (138, 138), (True, 1), ("2", 1), (1 << 40, 1), (None, 1)]
)
def test_a_peer_cannot_end_the_job_as_succeeded(code: Any, taken: int) -> None:
    members = at_once([lambda c=c: meet(c, 20.0, patience=3600.0) for c in clusters(2)])
    members[1]._channels[0].send({"failed": "all is\nwell \x1b[2J", "code": code})
    with pytest.raises(PeerFailed) as failed:
        members[0].gather(None)
    assert failed.value.exit_code == taken and str(failed.value) == "all is well [2J"


def test_a_message_that_was_changed_on_the_way_ends_the_connection() -> None:
    members = at_once([lambda c=c: meet(c, 20.0, patience=3600.0) for c in clusters(2)])
    members[1]._channels[0].socket.sendall(b"0" * 64 + b' {"value": 3}\n')
    with pytest.raises(PeerLost, match="worker 0"):
        members[0].gather(None)


def test_json_is_bounded() -> None:
    assert parse(b'{"a": ' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}") is not None
    assert parse(b'{"a": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}") is None
    assert parse(b'{"a": "' + b"[" * 500 + b'"}') == {"a": "[" * 500}
    assert parse(b'{"a": "\\"[["}') == {"a": '"[['}
    assert parse(b'{"a": ' + b"9" * 10_000 + b"}") is None


def test_without_a_token_only_this_machine_is_trusted(tmp_path: Any) -> None:
    here = Cluster(("127.0.0.1:1", "[::1]:2"), ("chief", "worker 0"), 0)
    there = Cluster(("127.0.0.1:1", "192.0.2.7:2"), ("chief", "worker 0"), 0)
    assert trust_of(here, {}, False) == Trust(b"", loopback=True)
    with pytest.raises(UsageError, match=f"worker 0 .*{handshake.TOKEN}.*--trust_network"):
        trust_of(there, {}, False)
    assert trust_of(there, {}, True) == Trust(b"", loopback=False)
    assert trust_of(there, {handshake.TOKEN: TOKEN}, False) == Trust(TOKEN.encode(), False)
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    environ = {handshake.TOKEN_FILE: str(path)}
    assert trust_of(there, environ, False) == Trust(TOKEN.encode(), False)
    with pytest.raises(UsageError, match="at least 16"):
        trust_of(there, {handshake.TOKEN: "short"}, False)
    path.write_text("")
    with pytest.raises(UsageError, match="empty"):
        trust_of(there, environ, False)
