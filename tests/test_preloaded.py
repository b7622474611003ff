"""A fork of the server is the process that `subprocess` would start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import preloaded
from tests.paths import ROOT

TOLD = """
import ctypes, json, os, sys
import numpy as np
from tensorflow.python.eager import context

death = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(death))
print("to errors", file=sys.stderr)
print(json.dumps({
    "parent": os.getppid(), "argv": sys.argv, "cwd": os.getcwd(), "name": __name__,
    "environ": dict(os.environ), "input": sys.stdin.read(), "random": np.random.random(),
    "path": sys.path[0], "runs": context.context()._context_handle is not None,
    "death": death.value, "session": os.getsid(0) == os.getpid(),
}))
"""


def told(tmp_path: Path, **how) -> dict:
    # Training in this process may have set variables of TensorFlow's, with which nothing is forked.
    changed = preloaded.settings(os.environ)
    environ = {k: v for k, v in os.environ.items() if k != "HOME" and k not in changed}
    environ |= preloaded.settings(preloaded.at_start()) | {"MINE": "x"}
    command = [sys.executable, "-c", TOLD, "one", tmp_path]
    done = preloaded.run(
        command, cwd=tmp_path, env=environ, input="ab", capture_output=True, text=True, **how
    )
    assert (done.returncode, done.stderr) == (0, "to errors\n"), done.stderr
    found = json.loads(done.stdout)
    assert found["environ"] == environ
    return found


def test_a_fork_is_what_was_asked_for(tmp_path: Path) -> None:
    first, second = told(tmp_path), told(tmp_path, start_new_session=True)
    assert first["parent"] == second["parent"] == preloaded.server().process.pid
    assert first["argv"] == ["-c", "one", str(tmp_path)] and first["cwd"] == str(tmp_path)
    assert (first["name"], first["path"], first["input"]) == ("__main__", "", "ab")
    assert first["random"] != second["random"]
    assert (first["session"], second["session"]) == (False, True)
    assert first["death"] == signal.SIGKILL, "it ends with the server"


def test_nothing_runs_where_it_is_forked(tmp_path: Path) -> None:
    """Locks that another thread holds would stay locked in the fork; so would TensorFlow's."""
    assert not told(tmp_path)["runs"]
    assert len(os.listdir(f"/proc/{preloaded.server().process.pid}/task")) == 1


@pytest.mark.parametrize("arguments", [["--model", "/nowhere"], ["--modle", "x"], ["--help"]])
def test_a_command_says_what_it_says_in_a_process_of_its_own(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "tpu_tlm.evaluate", *arguments]
    # Given, since libraries set variables of which `os.environ` does not know (COLUMNS).
    how = {"cwd": ROOT, "env": dict(os.environ), "capture_output": True, "text": True}
    forked, own = preloaded.run(command, **how), subprocess.run(command, **how)
    assert (forked.returncode, forked.stdout) == (own.returncode, own.stdout)
    assert forked.stderr == own.stderr


SLEEPS = """
import time
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_signals_and_waiting(number: signal.Signals) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with preloaded.popen([sys.executable, "-c", SLEEPS], **pipes) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == process.poll() == -number
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)


@pytest.mark.parametrize(
    ("code", "expected"), [("pass", 0), ("raise SystemExit(7)", 7), ("1 / 0", 1)]
)
def test_exit_codes(code: str, expected: int) -> None:
    command = [sys.executable, "-c", code]
    done = preloaded.run(command, capture_output=True, text=True)
    assert done.returncode == expected and ("ZeroDivisionError" in done.stderr) == (expected == 1)
    if expected:
        with pytest.raises(subprocess.CalledProcessError):
            preloaded.run(command, check=True, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("change", [{"KERAS_BACKEND": "jax"}, {"PYTHONPATH": "/elsewhere"}])
def test_other_imports_are_a_process_of_its_own(change: dict[str, str]) -> None:
    code = "import os, sys; print(os.getppid(), 'tensorflow' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = preloaded.run(command, env=os.environ | change, capture_output=True, text=True)
    assert done.stdout.split() == [str(os.getpid()), "False"]


def test_a_process_that_has_trained_forks_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own directory of compiled programs is not handed on, since two would write into it."""
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_persistent_cache_directory=/mine")
    command = [sys.executable, "-c", "import os; print(os.getppid(), *os.environ)"]
    for environ in (None, dict(os.environ)):
        done = preloaded.run(command, env=environ, capture_output=True, text=True)
        parent, *names = done.stdout.split()
        assert int(parent) == preloaded.server().process.pid
        assert ("TF_XLA_FLAGS" in names) == ("TF_XLA_FLAGS" in preloaded.at_start())
