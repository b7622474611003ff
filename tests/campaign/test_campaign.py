"""The campaign of kills and hostile inputs: a short form here, all of it by `make campaign`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

GIVEN = os.environ.get("CAMPAIGN")


def _campaign(*options: str) -> str:
    """Run it in processes of its own: a process that has used TensorFlow cannot be forked."""
    command = [sys.executable, "-m", "tests.campaign", *options]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.long
@pytest.mark.skipif(GIVEN is not None, reason="the whole campaign is run")
def test_a_short_campaign_finds_nothing(tmp_path: Path) -> None:
    said = _campaign("--short", "--work", str(tmp_path))
    assert "Faults: 0" in said
    kinds = ("kill -9", "SIGTERM", "one byte changed in", "every byte of", "TFRecord", "TF_CONFIG")
    for words in (*kinds, "kills: 2 of 2", "signals: 3 of 3", "all damaged", "all fuzzed"):
        assert words in said


@pytest.mark.skipif(GIVEN is None, reason="`make campaign` runs it")
@pytest.mark.campaign
def test_the_whole_campaign_finds_nothing() -> None:
    assert "Faults: 0" in _campaign(*shlex.split(GIVEN or ""))
