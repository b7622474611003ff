"""What TensorFlow raises on several workers, as sentences: a death that it cannot name, and what
has other causes.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from typing import Any

import pytest
import tensorflow as tf

from tests.distributed.test_peers import at_once, drop, peers
from tpu_tlm.distributed import multi_worker
from tpu_tlm.distributed.peers import PeerGroup
from tpu_tlm.distributed.tf_config import Cluster
from tpu_tlm.errors import PeerFailed, PeerLost, TlmError

NCCL = tf.errors.InternalError(
    None, None, "NCCL: remote process exited or there was a network error"
)
GONE = tf.errors.UnavailableError(None, None, "Connection reset by peer")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tpu_tlm.distributed.peers._UNTIL_KNOWN", 1.0)
    monkeypatch.setattr("tpu_tlm.distributed.peers._AT_ONCE", 0.5)


def ends_with(member: PeerGroup, error: Exception) -> Exception:
    """What a member's work ends with when TensorFlow raises this in it."""
    with pytest.raises(Exception) as raised, member:
        raise error
    return raised.value


@pytest.mark.parametrize(
    "error",
    [
        NCCL,
        GONE,
        tf.errors.UnknownError(None, None, "x"),
        tf.errors.InvalidArgumentError(None, None, ""),
    ],
)
def test_whatever_tensorflow_raises_after_a_death_is_that_death(error: Exception) -> None:
    first, second = peers(2)
    threading.Timer(0.2, drop, [second]).start()
    ended = ends_with(first, error)
    assert (
        isinstance(ended, PeerLost)
        and str(ended).startswith(f"{first.title(1)} died")
        and ended.__cause__ is error
    )
    assert first._code == 138


def test_without_a_death_only_a_broken_connection_means_one() -> None:
    first, second = peers(2)
    assert ends_with(first, NCCL) is NCCL
    assert isinstance(ends_with(second, GONE), PeerFailed), "the first has said what it ended with"
    first, second = peers(2)
    said = "Graph execution error:\n\nDetected at node a\nReset by peer\n\t [[{{node a}}]] [Op:b]"
    lost = ends_with(first, tf.errors.AbortedError(None, None, said))
    assert isinstance(lost, PeerLost)
    assert "connection to another worker broke (Reset by peer)" in str(lost)
    assert isinstance(first.explained(tf.errors.CancelledError(None, None, "")), PeerLost)
    for error in (ValueError("ours"), TlmError("ours")):
        begun = time.monotonic()
        assert (
            first.explained(error) is error
            and PeerGroup().explained(NCCL) is NCCL
            and time.monotonic() - begun < 0.4
        )


@pytest.mark.parametrize(
    ("error", "dies", "kind", "words"),
    [
        (GONE, True, PeerLost, "worker 0 .* died"),
        (
            RuntimeError("in use"),
            False,
            TlmError,
            "TensorFlow could not connect chief .* to the others: in use",
        ),
        (tf.errors.UnknownError(None, None, ""), False, TlmError, "to the others: UnknownError"),
        (None, True, PeerLost, "worker 0 .* died"),
    ],
)
def test_a_start_that_fails(
    error: Any, dies: bool, kind: type[TlmError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In TensorFlow's connecting, or (None) before it."""
    first, second = peers(2)
    registered: list[Any] = []

    def connect(*arguments: Any) -> None:
        if dies:
            drop(second)
        raise error

    monkeypatch.setattr(multi_worker, "meet", lambda cluster, timeout, **_: first)
    monkeypatch.setattr(multi_worker.atexit, "register", registered.append)
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", connect)

    def other() -> Any:
        return drop(second) if error is None else second.gather(None)

    before = signal.getsignal(signal.SIGTERM)
    failed, _ = at_once(
        [lambda: multi_worker.start(Cluster(("a:1", "b:1"), ("chief", "worker 0"), 0), 5.0), other]
    )
    assert type(failed) is kind and re.search(words, str(failed)), failed
    assert (
        registered == [first.end_now]
        and first._code == failed.exit_code
        and signal.getsignal(signal.SIGTERM) is before
    )
    if not dies:
        told = at_once([lambda: second.gather(None)])[0]
        assert (
            isinstance(told, PeerFailed)
            and "chief" in str(told)
            and "failed: TensorFlow could not connect" in str(told)
        )
