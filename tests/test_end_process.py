"""The end of a command's process: at once after a stop, as usual otherwise."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.paths import ROOT

PROGRAM = """
import atexit, sys, time
from tpu_tlm.errors import Preempted, UsageError, end_process, run_command

atexit.register(lambda: (print("teardown", flush=True), time.sleep(float(sys.argv[2]))))

def main(argv):
    print("result")
    code = int(sys.argv[1])
    if code in (129, 130, 143):
        raise Preempted("stopped", code)
    if code == 2:
        raise UsageError("wrong")
    return code

end_process(run_command(main))
"""


@pytest.mark.parametrize("code", [143, 130, 129])
def test_a_stopped_run_does_not_wait_for_the_interpreters_teardown(code: int) -> None:
    began = time.monotonic()
    command = [sys.executable, "-c", PROGRAM, str(code), "60"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (code, "result\n", "error: stopped\n")
    assert time.monotonic() - began < 50


@pytest.mark.parametrize("code", [0, 1, 2])
def test_other_ends_tear_down(code: int) -> None:
    command = [sys.executable, "-c", PROGRAM, str(code), "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (code, "result\nteardown\n")


def test_an_exit_code_survives_closed_output() -> None:
    command = [sys.executable, "-c", PROGRAM, "143", "0"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=full, timeout=50)
    assert done.returncode == 143
