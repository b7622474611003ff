"""What ends a process: signals handed on to a command below process 1, and the guard; processes
of their own, without TensorFlow.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.paths import ROOT
from tpu_tlm.distributed import pid1

# Process 1 of a container, as far as the kernel is concerned.
CONTAINER = ["unshare", "--kill-child", "-r", "-p", "-f", "--mount-proc"]
GUARDED = """
import os, sys, time
from tpu_tlm.distributed import pid1
from tpu_tlm.distributed.watchdog import guarded
if (code := pid1.run_below(None)) is not None:
    sys.exit(code)
with guarded(60.0, "not this one"):
    pass
with guarded(0.5, "too slow; start it again"):
    time.sleep(30)
"""
SUPERVISED = """
import sys
from tpu_tlm.distributed import pid1
sys.exit(pid1.supervise([sys.executable, "-c", sys.argv[1]]))
"""


def started(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def container() -> list[str]:
    """The command that makes another one process 1."""
    try:
        allowed = subprocess.run([*CONTAINER, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("this machine lets nobody make a process namespace (unshare)")
    return CONTAINER


@pytest.mark.parametrize(
    ("code", "ends"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_the_exit_code_is_the_command_s(code: str, ends: int) -> None:
    # An orphan that ends first is not taken for it.
    orphan = (
        "import os, sys, time\nif not os.fork():\n    os._exit(0) if os.fork() else "
        "os._exit(5)\ntime.sleep(0.3)\n"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", SUPERVISED, orphan + code], cwd=ROOT, timeout=60
        ).returncode
        == ends
    )


@pytest.mark.parametrize(
    "command", ["vocab", "preprocess", "train", "evaluate", "finetune", "embed", "convert"]
)
def test_long_commands_run_below_process_1(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pid1, "run_below", lambda argv: 77)
    assert importlib.import_module(f"tpu_tlm.{command}").main([]) == 77


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_handed_on(number: signal.Signals) -> None:
    code = (
        f"import signal, sys, time; signal.signal({int(number)}, lambda n, f: sys.exit(7)); "
        "print('up', flush=True); time.sleep(60)"
    )
    above = started(sys.executable, "-c", SUPERVISED, code)
    assert above.stdout is not None and above.stdout.readline() == "up\n"
    above.send_signal(number)
    assert (above.wait(30), *above.communicate()) == (7, "", "")


def test_no_other_process_does_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pid1.run_below(None) is None
    # Process 1 may be another program that calls a command's main: it is not run again.
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(pid1, "supervise", lambda command: command)
    monkeypatch.setattr(sys, "argv", ["tpu-tlm", "train", "--steps", "5"])
    assert (
        pid1.run_below(["--steps", "6"]) is None
        and pid1.run_below(["a", "tpu-tlm", "train", "--steps", "5"]) is None
    )
    again = [sys.executable, *sys.orig_argv[1:]]
    assert pid1.run_below(["--steps", "5"]) == pid1.run_below([]) == pid1.run_below(None) == again


def test_the_guard_ends_a_process_that_hangs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GUARDED], cwd=ROOT, capture_output=True, text=True, timeout=25
    )
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "error: too slow; start it again\n")


def test_the_guard_ends_it_in_a_container(container: list[str]) -> None:
    done = subprocess.run(
        [*container, sys.executable, "-c", GUARDED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=25,
    )
    assert (done.returncode, done.stderr) == (137, "error: too slow; start it again\n")


@pytest.mark.parametrize(
    "command",
    ["train --train_dir none --run_dir", "preprocess --vocab none --input_files none --output"],
)
def test_sigterm_ends_a_command_in_a_container_from_its_start_on(
    container: list[str], command: str, tmp_path: Path
) -> None:
    """Long before it listens to notices."""
    outside = started(*container, sys.executable, "-m", "tpu_tlm", *command.split(), str(tmp_path))

    def only_child(pid: int) -> int:
        deadline = time.monotonic() + 60
        while not (found := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            assert outside.poll() is None and time.monotonic() < deadline, outside.communicate()
            time.sleep(0.01)
        return int(found[0])

    first = only_child(outside.pid)
    only_child(first)
    os.kill(first, signal.SIGTERM)
    said = outside.communicate(timeout=60)
    assert outside.returncode == 143, said
