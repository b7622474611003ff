"""The real compiler on the real step of every objective; where its environment is (`make plan-env`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tpu_tlm.errors import UsageError
from tpu_tlm.objectives.make import OBJECTIVES
from tpu_tlm.planning import environment

ROOT = Path(__file__).resolve().parents[2]
REPLICATED = "mlm@v5e-4"


@pytest.fixture(scope="module")
def compiled():
    """What each objective's step came to: one process for all, since importing TensorFlow takes as long as compiling."""
    try:
        python = environment.find_python(None, os.environ, ROOT)
    except UsageError as error:
        pytest.skip(str(error))
    if subprocess.run([python, "-m", "tpu_tlm.planning.environment"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip(f"{python} lacks packages that compile for a TPU; make plan-env")
    command = [python, "-m", "tests.planning.compile_each", *OBJECTIVES, REPLICATED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["name"]: line for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_step_compiles_for_a_tpu_and_keeps_its_state_in_place(name, compiled):
    found = compiled[name]
    assert found["cycles"] > 0 and 0 < found["hbm"] < 2**30
    # Weights and both moments of AdamW, donated: nearly all, small ones are padded.
    assert found["aliased"] >= 3 * found["state"] > 0


@pytest.mark.slow
def test_replicas_meet_in_an_all_reduce(compiled):
    assert compiled[REPLICATED]["missing"].get("all-reduce", 0) >= 1
    assert "all-reduce" not in compiled["mlm"]["missing"]
