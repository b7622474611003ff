"""Rendezvous, agreement and detection of lost peers: threads and small processes on this
machine, without TensorFlow."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from tests.paths import ROOT
from tests.ports import free_ports
from tpu_tlm.distributed.channel import Channel
from tpu_tlm.distributed.handshake import Trust, introduce
from tpu_tlm.distributed.peers import PeerGroup, WorkerGroup
from tpu_tlm.distributed.rendezvous import meet
from tpu_tlm.distributed.tf_config import Cluster
from tpu_tlm.errors import PeerFailed, PeerLost, TlmError, UsageError


def clusters(size: int) -> list[Cluster]:
    """A cluster of one chief and workers, as each of them sees it."""
    addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(size))
    names = ("chief", *(f"worker {i}" for i in range(size - 1)))
    return [Cluster(addresses, names, host) for host in range(size)]


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """The results of calls made at the same time, each in its own thread; an exception is a
    result.
    """

    def caught(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except TlmError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(caught, calls))


def peers(size: int) -> list[WorkerGroup]:
    """Workers that have met."""
    return at_once([partial(meet, c, 20.0, patience=3600.0) for c in clusters(size)])


def drop(worker: WorkerGroup) -> None:
    """What the others see when a process is killed; it says no more itself."""
    worker._code = 137
    for channel in worker._channels.values():
        channel.close()


def test_all_get_the_values_of_all_in_the_same_order() -> None:
    members = peers(4)
    for turn in range(50):
        values = [{"turn": turn, "host": member.host} for member in members]
        assert (
            at_once([partial(m.gather, v) for m, v in zip(members, values, strict=True)])
            == [values] * 4
        )
    assert at_once([m.leave for m in members]) == [None] * 4


def test_alone_agrees_with_itself() -> None:
    with PeerGroup() as alone:
        assert alone.gather(3) == [3] and alone.size == 1


def test_the_line_outlives_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow listens on the chief's port afterwards, while the lines stay open."""
    members = peers(2)
    port = int(members[0].title(0).rpartition(":")[2].rstrip(")"))
    with socket.socket() as tensorflow:
        tensorflow.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does
        tensorflow.bind(("", port))
        tensorflow.listen()
        assert at_once([partial(m.gather, m.host) for m in members]) == [[0, 1]] * 2


def test_who_did_not_come_is_named_everywhere() -> None:
    all_four = clusters(4)
    begun = time.monotonic()
    # Worker 1 (host 2) is missing, and each of the others says so in time. The chief's time-out
    # counts for those that are connected to it.
    errors = at_once(
        [partial(meet, c, 4.0 if c.host == 0 else 3.0) for c in all_four if c.host != 2]
    )
    assert time.monotonic() - begun < 20
    for error in errors:
        assert isinstance(error, TlmError) and error.exit_code == 1
        assert str(error).startswith(
            f"1 of 4 workers did not come within 4 s: worker 1 ({all_four[0].addresses[2]}); check"
        )


def test_without_a_chief(capsys: pytest.CaptureFixture[str]) -> None:
    _, worker = clusters(2)
    with pytest.raises(
        TlmError,
        match=(
            r"1 of 2 workers did not come within 0.5 s: chief \(127.0.0.1:\d+\) \(Connection "
            r"refused\)"
        ),
    ):
        meet(worker, 0.5)


def test_a_worker_whose_tf_config_differs() -> None:
    chief, worker = clusters(2)
    other = Cluster((worker.addresses[0], "127.0.0.1:1"), worker.names, 1)
    errors = at_once([lambda: meet(chief, 4.0), lambda: meet(other, 4.0)])
    assert isinstance(errors[1], UsageError) and "names other addresses than the chief's" in str(
        errors[1]
    )
    assert "did not come" in str(errors[0])


def test_strangers_and_the_dead_do_not_count() -> None:
    """A port scan, an HTTP request, other JSON, and a worker that dies while waiting."""
    chief, first, second = clusters(3)

    def strangers() -> None:
        while True:
            try:
                for said in (
                    b"",
                    b"GET / HTTP/1.1\r\n\r\n",
                    b'{"hello": 0}\n',
                    b'{"hello": true}\n',
                    b"[1]\n",
                ):
                    with socket.create_connection(first.endpoint(0), timeout=5) as stranger:
                        stranger.sendall(said)
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        dying = Channel(socket.create_connection(first.endpoint(0), timeout=5))
        assert introduce(dying, first, Trust(b"", True)) == ""
        assert dying.receive(5.0) == {"wait": True}
        dying.close()

    members: list[Any] = [None, None, None]
    threads = [threading.Thread(target=lambda: members.__setitem__(0, meet(chief, 20.0, 3600.0)))]
    threads[0].start()
    strangers()
    for host, cluster in ((2, second), (1, first)):
        threads.append(
            threading.Thread(
                target=lambda h=host, c=cluster: members.__setitem__(h, meet(c, 20.0, 3600.0))
            )
        )
        threads[-1].start()
    for thread in threads:
        thread.join(30)
    assert at_once([partial(m.gather, m.host) for m in members]) == [[0, 1, 2]] * 3


def test_a_chief_waits_for_its_port_and_a_worker_for_the_right_answer() -> None:
    """The process before this one still holds the port, and answers in TensorFlow's tongue."""
    chief, worker = clusters(2)
    with socket.create_server(("", chief.endpoint(0)[1])) as old:
        waiting = threading.Thread(
            target=lambda: results.extend(
                at_once([lambda: meet(chief, 20.0), lambda: meet(worker, 20.0)])
            )
        )
        results: list[Any] = []
        waiting.start()
        answered, _ = old.accept()
        with answered:
            answered.sendall(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00\n")
    waiting.join(30)
    assert [type(r) for r in results] == [WorkerGroup, WorkerGroup]


@pytest.mark.parametrize("dies", [0, 2])
def test_all_others_learn_who_died(dies: int) -> None:
    members = peers(4)
    title = members[0].title(dies)
    others = [m for m in members if m.host != dies]
    timer = threading.Timer(0.2, drop, [members[dies]])
    timer.start()
    begun = time.monotonic()
    errors = at_once([partial(m.gather, 0) for m in others])
    assert time.monotonic() - begun < 5
    for error in errors:
        assert isinstance(error, PeerLost) and error.exit_code == 138
        assert str(error).startswith(f"{title} died") and "start the job again" in str(error)


@pytest.mark.parametrize("fails", [0, 1])
def test_all_others_learn_why_one_failed(fails: int) -> None:
    members = peers(3)

    def work(member: WorkerGroup) -> None:
        with member:
            if member.host == fails:
                raise UsageError("shard 7 is damaged")
            member.gather(None)

    errors = at_once([partial(work, m) for m in members])
    assert [type(e) for e in errors] == [
        UsageError if m.host == fails else PeerFailed for m in members
    ]
    assert {e.exit_code for e in errors} == {2}
    assert str(errors[2]) == f"{members[0].title(fails)} failed: shard 7 is damaged"


def test_a_worker_that_dies_before_the_end_is_missed_and_one_that_left_is_not() -> None:
    members = peers(3)
    timer = threading.Timer(0.2, drop, [members[2]])
    timer.start()
    assert [type(e) for e in at_once([m.leave for m in members[:2]])] == [PeerLost] * 2
    members = peers(3)
    at_once([m.leave for m in members])
    for member in members:
        drop(member)
    time.sleep(0.2)
    assert all(member._error is None for member in members)


HANGS = """
    import sys, time
    from tpu_tlm.distributed import peers
    from tpu_tlm.distributed.tf_config import Cluster
    from tpu_tlm.distributed.rendezvous import meet

    addresses = tuple(sys.argv[2].split(","))
    names = ("chief", *(f"worker {i}" for i in range(len(addresses) - 1)))
    member = meet(Cluster(addresses, names, int(sys.argv[1])), 30.0, patience=1.0)
    print("met", flush=True)
    if sys.argv[3] != "hanging":
        peers._UNDISTURBED = 4.0
        with member.undisturbed():
            time.sleep(3 if sys.argv[3] == "saving" else 60)
            print("saved", flush=True)
    time.sleep(60)
"""


def test_a_process_that_hangs_after_a_death_is_ended() -> None:
    """As in a collective that waits for a dead peer; a save is completed first, if it can be."""
    addresses = ",".join(clusters(4)[0].addresses)

    def process(host: int, what: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(HANGS), str(host), addresses, what]
        return subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    members = chief, hanging, killed, stuck = [
        process(i, what) for i, what in enumerate(("saving", "hanging", "hanging", "stuck"))
    ]
    for one in members:
        # Before it there may stand who was waited for.
        assert one.stdout is not None and any(line == "met\n" for line in one.stdout)
    killed.kill()
    begun = time.monotonic()
    for one, out in ((hanging, ""), (chief, "saved\n"), (stuck, "")):
        printed, said = one.communicate(timeout=30)
        assert (
            (one.returncode, printed) == (138, out)
            and said.startswith("error: worker 1 (")
            and said.count("\n") == 1
        )
        assert 0.9 < time.monotonic() - begun < 25
    killed.communicate()
