"""Every command stands under one name, and its help comes at once, without TensorFlow."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.paths import ROOT
from tpu_tlm.__main__ import COMMANDS


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    """`python -m tpu_tlm` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "tpu_tlm", *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_without_a_command_they_are_listed() -> None:
    done = run()
    assert done.returncode == 0
    assert all(f"  {command} " in done.stdout for command in COMMANDS)


def test_an_unknown_command_is_wrong_use() -> None:
    done = run("trian")
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no command 'trian'")


def test_an_error_is_one_line() -> None:
    done = run("doctor", "--jsom")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "--jsom" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_quick_and_says_defaults(command: str) -> None:
    before = os.times()
    done = run(command, "--help")
    after = os.times()
    assert done.returncode == 0, done.stderr
    assert f"tpu_tlm.{command}" in done.stdout and "default" in done.stdout
    # Processor time of the child, not the clock: the machine may be busy. TensorFlow alone takes several seconds of it.
    assert (
        after.children_user + after.children_system - before.children_user - before.children_system
        < 0.5
    )
