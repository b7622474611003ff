"""Commands whose output nobody reads, or which cannot be written: one line and the right code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.paths import ROOT

PREDICT = """
import sys
from tpu_tlm.errors import UsageError, outlive_output, run_command

def main(argv):
    if "files" in argv:
        outlive_output()
    print("x" * 100_000, flush=True)
    if "wrong" in argv:
        raise UsageError("--flag: wrong")
    if "long" in argv:
        raise UsageError(f"file: {'9' * 10**6}: fix it")
    print("done", file=sys.stderr)
    return 0

sys.exit(run_command(main, sys.argv[1:]))
"""


def ran(redirection: str, *argv: str, unbuffered: bool = False) -> tuple[int, str]:
    """Exit code and standard error of the program above under a shell's redirection."""
    program = [sys.executable, *(["-u"] if unbuffered else []), "-c", PREDICT, *argv]
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$@" {redirection}', "bash", *program],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_full_disk_is_one_line(unbuffered):
    code, said = ran(">/dev/full", unbuffered=unbuffered)
    assert code == 1 and said.startswith("error: standard output") and "No space left" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_reader_that_goes_away_is_no_failure(unbuffered):
    assert ran("| true", unbuffered=unbuffered) == (0, "")


def test_closed_streams_change_no_exit_code():
    assert ran(">&-") == (0, "done\n")
    assert ran(">&-", "wrong") == (2, "error: --flag: wrong\n")
    assert ran(">/dev/null 2>&-", "wrong")[0] == 2
    assert ran(">/dev/null 2>/dev/full")[0] == 0
    assert ran(">/dev/null 2>/dev/full", "wrong")[0] == 2


@pytest.mark.parametrize("redirection", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_opened_to_nowhere(tmp_path, redirection):
    program = (
        "import sys\n"
        "from tpu_tlm.errors import run_command\n"
        "def main(argv):\n"
        "    sys.stderr.isatty(), sys.stdout.isatty()\n"
        "    with open(argv[0], 'w') as stream:\n"
        "        return 7 if stream.fileno() > 2 else 8\n"
        "sys.exit(run_command(main, sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "file")]
    shell = ["bash", "-c", f'"$@" {redirection}', "bash", *command]
    assert subprocess.run(shell, cwd=ROOT).returncode == 7


@pytest.mark.parametrize("redirection", [">/dev/full", "| true"])
def test_a_command_that_makes_files_goes_on(redirection):
    code, said = ran(redirection, "files")
    warning, done = said.splitlines()
    assert code == 0 and warning.startswith("warning: standard output") and done == "done"
    assert ran(redirection, "files", "wrong")[0] == 2


def test_an_error_is_of_readable_length():
    code, said = ran(">/dev/null", "long")
    assert code == 2 and len(said) < 2000
    assert said.startswith("error: file: 999") and said.endswith("fix it\n")


@pytest.mark.parametrize("module", ["tpu_tlm", "tpu_tlm.train"])
def test_help_on_a_full_disk(module):
    command = f'"{sys.executable}" -m {module} --help >/dev/full'
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert "standard output" in done.stderr and "Traceback" not in done.stderr
