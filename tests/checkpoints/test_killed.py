"""A process killed anywhere inside a save leaves a good checkpoint; the next save cleans up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.checkpoints.dying_saves import variables
from tests.paths import ROOT
from tpu_tlm.checkpoints.manager import Checkpoints

PROGRAM = Path(__file__).with_name("dying_saves.py")


def _run(*arguments: object) -> None:
    root = ROOT
    environment = {**os.environ, "PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, PROGRAM, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def _check(directory: Path, size: int = 1000) -> int:
    """The newest checkpoint is of one step, a further save cleans up; returns the step found."""
    checkpoints = Checkpoints(str(directory), keep=2)
    found = checkpoints.newest()
    assert found is not None
    arrays, want = found.load(), variables(found.step, size)
    assert found.state == {"position": found.step * 10} and arrays.keys() == want.keys()
    assert all(np.array_equal(arrays[name], want[name]) for name in want)
    assert not any("damaged" in skipped.reason for skipped in checkpoints.skipped)
    again = found.step + 1
    checkpoints.save(again, variables(again, size), {"position": again * 10})
    newest = Checkpoints(str(directory)).newest()
    assert newest is not None and newest.step == again
    assert set(os.listdir(directory)) == {
        "checkpoint",
        os.path.basename(found.path),
        os.path.basename(newest.path),
    }
    return found.step


def test_killed_at_every_stage_of_a_save(tmp_path: Path) -> None:
    base = tmp_path / "base"
    for step in (2, 3):
        Checkpoints(str(base), keep=2).save(step, variables(step), {"position": step * 10})
    (base / "step-00000001").mkdir()
    (base / "step-00000001" / "variables.index").write_bytes(b"left over")
    _run("stages", base, tmp_path / "out")
    stages = sorted((tmp_path / "out").iterdir(), key=lambda path: int(path.name))
    steps = [_check(stage) for stage in stages]
    assert steps == sorted(steps) and steps[0] == 3 and steps[-1] == 4, "committed at one point"
    assert steps.count(3) >= 10 and steps.count(4) >= 8, (
        "points before and after the commit were both hit"
    )


def test_killed_at_any_moment(tmp_path: Path) -> None:
    _run("moments", tmp_path, 8)
    assert sum(1 for directory in tmp_path.iterdir() if _check(directory, 200_000)) == 8
