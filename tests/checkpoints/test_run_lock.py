"""One run at a time in one directory."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT
from tpu_tlm.checkpoints.run_lock import locked
from tpu_tlm.errors import UsageError

HOLDS = """
import sys, time
from tpu_tlm.checkpoints.run_lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
# A disk's lock and, in its file, the name of a process that may be gone; free after some seconds.
NAMES = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(sys.argv[2])
file.flush()
print("held", flush=True)
time.sleep(float(sys.argv[3]))
"""


def test_another_process_is_kept_out_until_it_dies(tmp_path: Path) -> None:
    run_dir = str(tmp_path / "run")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, run_dir], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with (
        pytest.raises(
            UsageError, match=f"process {holder.pid} on {socket.gethostname()} trains here now"
        ),
        locked(run_dir),
    ):
        pass
    # The other workers of a job write nothing and need no lock.
    with locked(run_dir, wanted=False):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(run_dir):
        assert (tmp_path / "run" / "lock").read_text().startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize(
    "text",
    ["process 7 on a-machine-that-is-gone\nbegun 5\n", "process {ours} on {host}\nbegun 1\n", ""],
)
def test_a_lock_that_outlives_its_machine_is_waited_for(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on NFS, until the server releases it; in a pod made anew process numbers come again."""
    text = text.format(ours=os.getpid(), host=socket.gethostname())
    command = [sys.executable, "-c", NAMES, str(tmp_path / "lock"), text, "1.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        who = text.partition("\n")[0] or "another process"
        with (
            pytest.raises(UsageError, match=f"{who} trains here now"),
            locked(str(tmp_path), patience=0.1),
        ):
            pass
        capsys.readouterr()
        with locked(str(tmp_path), patience=60.0):
            assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path}: {who} holds the lock") and "up to 60 s" in said
    assert said.count("\n") == 1


def test_it_is_given_back_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(str(tmp_path)):
            raise ZeroDivisionError


def test_a_disk_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(str(tmp_path)):
        assert "cannot be locked (Operation not supported)" in capsys.readouterr().err
