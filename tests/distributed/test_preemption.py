"""Notices: SIGTERM, Google Cloud's, and the time that is left after them."""

from __future__ import annotations

import os
import signal
import socketserver
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.paths import ROOT
from tpu_tlm.distributed.preemption import PreemptionWatcher, metadata_host
from tpu_tlm.errors import TlmError

TERMINATE = "TERMINATE_ON_HOST_MAINTENANCE"


def never() -> TlmError:
    raise AssertionError("nothing is late here")


def wait(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, str], list[str]]]:
    """A metadata server: its address, what it says, and what it was asked; asked often."""
    monkeypatch.setattr("tpu_tlm.distributed.preemption._EVERY", 0.02)
    monkeypatch.setenv(
        "http_proxy", "http://127.0.0.1:9"
    )  # the machine's own server is not asked through one
    says, asked = {"maintenance-event": "NONE", "preempted": "FALSE"}, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 - http.server's own name
            asked.append(self.path)
            value = (
                says.get(self.path.rpartition("/")[2])
                if self.headers.get("Metadata-Flavor") == "Google"
                else None
            )
            self.send_response(404 if value is None else 200)
            self.end_headers()
            self.wfile.write((value or "").encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", says, asked
        server.shutdown()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_stops_a_run_in_the_block_only(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with PreemptionWatcher(0, never) as notice:
        assert notice.reason == ""
        os.kill(os.getpid(), number)
        wait(lambda: notice.reason)
        notice.give("another")
        assert (notice.reason, notice.exit_code) == (number.name, code)
    assert signal.getsignal(number) is before


def test_an_ignored_signal_stays_ignored() -> None:
    """As after nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with PreemptionWatcher(0, never) as notice:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            wait(lambda: notice.reason)
            assert notice.reason == "SIGTERM"
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_exit_code_of_another_workers_signal() -> None:
    watcher = PreemptionWatcher(0, never)
    watcher.reason = "worker 1 (host:1): SIGINT"
    assert watcher.exit_code == 130
    watcher.reason = "Google Cloud's notice preempted = TRUE"
    assert watcher.exit_code == 143


INTERRUPTED = """
    import sys, time
    from tpu_tlm.errors import Preempted, TlmError
    from tpu_tlm.distributed.preemption import PreemptionWatcher

    def late(): raise AssertionError
    with PreemptionWatcher(0.2, late, abandon=lambda: Preempted("lost", 130)) as notice:
        print("ready", flush=True)
        if sys.argv[1] == "saving":
            with notice.saving():
                while not notice.reason:
                    time.sleep(0.01)
                print("saving", flush=True)
                time.sleep(1.5)  # longer than the grace period, which SIGINT does not start
                print("saved", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("where", ["computing", "saving"])
def test_a_second_interrupt_ends_at_once_but_never_in_a_save(where: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(INTERRUPTED), where]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    if where == "saving":
        assert process.stdout.readline() == "saving\n"
        process.send_signal(signal.SIGTERM)
    else:
        time.sleep(0.5)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "error: lost" in errors
    assert ("saved" in out) == (where == "saving")


@pytest.mark.parametrize(
    ("key", "value"), [("maintenance-event", TERMINATE), ("preempted", "TRUE")]
)
def test_google_clouds_notices(
    cloud: tuple[str, dict[str, str], list[str]], key: str, value: str
) -> None:
    host, says, asked = cloud
    with PreemptionWatcher(0, never, host) as notice:
        says["maintenance-event"] = (
            "MIGRATE_ON_HOST_MAINTENANCE"  # the machine is moved while it runs
        )
        wait(lambda: len(asked) > 10)
        assert notice.reason == "" and set(asked) == {
            f"/computeMetadata/v1/instance/{k}" for k in says
        }
        says[key] = value
        wait(lambda: notice.reason)
        assert notice.reason == f"Google Cloud's notice {key} = {value}"


def test_a_notice_that_stopped_this_run_before_stops_it_again_only_when_it_is_new(
    cloud: tuple[str, dict[str, str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    host, says, asked = cloud
    says["maintenance-event"] = TERMINATE
    with PreemptionWatcher(0, never, host) as first:
        wait(lambda: first.reason)
    second = PreemptionWatcher(0, never, host)
    second.known = f"worker 1 (a:1): {first.reason}"
    with second:
        asked.clear()
        wait(lambda: len(asked) > 10)
        assert second.reason == "" and "still set" in capsys.readouterr().out
        says["maintenance-event"] = "NONE"
        asked.clear()
        wait(lambda: len(asked) > 10)
        says["maintenance-event"] = TERMINATE
        wait(lambda: second.reason)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n<html>",
        b"nonsense\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nT",
    ],
    ids=["empty", "page", "no HTTP", "half"],
)
def test_what_no_metadata_server_says_is_no_notice(
    answer: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run goes on, and notices are still heard afterwards."""
    monkeypatch.setattr("tpu_tlm.distributed.preemption._EVERY", 0.02)
    says, asked = [answer], []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            asked.append(1)
            self.wfile.write(says[0])

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with PreemptionWatcher(0, never, f"127.0.0.1:{server.server_address[1]}") as notice:
            wait(lambda: len(asked) > 6)
            # A watcher of an earlier test may still end with a line of its own.
            own = f"127.0.0.1:{server.server_address[1]} "
            lines = [line for line in capsys.readouterr().err.splitlines() if own in line]
            assert notice.reason == "" and sum("does not answer" in line for line in lines) == 2
            says[0] = b"HTTP/1.0 200 OK\r\n\r\nTRUE"
            wait(lambda: notice.reason)
        server.shutdown()


def test_a_metadata_server_that_tells_nothing_is_said_once(
    cloud: tuple[str, dict[str, str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    host, says, asked = cloud
    del says["preempted"]
    with PreemptionWatcher(0, never, host) as notice:
        wait(lambda: len(asked) > 10)
        assert notice.reason == ""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning:") and host in line and "preempted" in line


COMPUTING = """
    import hashlib, sys
    from tpu_tlm.errors import TlmError
    from tpu_tlm.distributed.preemption import PreemptionWatcher

    with PreemptionWatcher(0.5, lambda: TlmError("too late")):
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes without Python
"""


def test_the_clock_starts_while_the_main_thread_is_not_in_python() -> None:
    command = [sys.executable, "-c", textwrap.dedent(COMPUTING)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, errors) == (1, "error: too late\n")


def test_where_google_cloud_is_asked(tmp_path: Path) -> None:
    assert metadata_host({"GCE_METADATA_HOST": "a:1"}, tmp_path / "none") == "a:1"
    assert metadata_host({}, tmp_path / "none") is None
    (tmp_path / "product_name").write_text("Google Compute Engine\n")
    assert metadata_host({}, tmp_path / "product_name") == "metadata.google.internal"
    (tmp_path / "product_name").write_text("KVM\n")
    assert metadata_host({}, tmp_path / "product_name") is None


LATE = """
    import sys, time
    from tpu_tlm.errors import Preempted, TlmError
    from tpu_tlm.distributed.preemption import PreemptionWatcher

    with PreemptionWatcher(float(sys.argv[1]), lambda: TlmError("too late")) as notice:
        print("ready", flush=True)
        while not notice.reason:
            time.sleep(0.01)
        time.sleep(float(sys.argv[2]))
    # Longer than the grace: no clock runs on.
    time.sleep(3.5 if sys.argv[1] == "3" else 1.0)
    print("saved", flush=True)
"""


@pytest.mark.parametrize(
    ("grace", "work", "code", "said"),
    [("0.5", "60", 1, "error: too late\n"), ("3", "0.1", 0, ""), ("0", "1", 0, "")],
)
def test_the_time_after_a_notice_is_bounded(grace: str, work: str, code: int, said: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(LATE), grace, work]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, errors, "saved" in out) == (code, said, code == 0)
