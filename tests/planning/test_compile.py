"""The real compiler on the real step of every objective; where its environment is (`make
plan-env`).
"""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest

from tests.paths import ROOT
from tests.planning.steps import SHARDED, SIZES, VOCAB
from tpu_tlm.errors import UsageError
from tpu_tlm.objectives.registry import OBJECTIVES
from tpu_tlm.planning import environment

# Where the environment is, some minutes.
pytestmark = pytest.mark.slow

REPLICATED = "mlm@v5e-4"
DIVIDED = f"{REPLICATED}{SHARDED}"
# Fine-tuning of an ELMo, whose LSTM is a loop within the step.
ELMO = "elmo"
# Replicas that meet within the forward pass, and a class of one's own: that of the page on it.
GATHERED, OWN = "dual-encoder@v5e-4", "own"
# In the form of a v6e, which stores what others compute again.
V6E = ("mlm@v6e-1", "seq2seq@v6e-1", "electra@v6e-1", "mlm@v6e-4")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What each objective's step came to: one process for all, since importing TensorFlow takes
    as long as compiling.
    """
    try:
        python = environment.find_python(None, os.environ, ROOT)
    except UsageError as error:
        pytest.skip(str(error))
    if subprocess.run(
        [python, "-m", "tpu_tlm.planning.environment"], cwd=ROOT, capture_output=True
    ).returncode:
        pytest.skip(f"{python} lacks packages that compile for a TPU; make plan-env")
    path = tmp_path_factory.mktemp("own") / "own.py"
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "own_objective.md").read_text(), re.DOTALL
    )
    path.write_text(code)
    name = re.findall(r"^class (\w+)", code, re.MULTILINE)[-1]
    own = f"{path}:{name}"
    command = [
        python,
        "-m",
        "tests.planning.compile_each",
        *OBJECTIVES,
        REPLICATED,
        DIVIDED,
        GATHERED,
        ELMO,
        *V6E,
        own,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {OWN if line["name"] == own else line["name"]: line for line in lines}


@pytest.mark.parametrize("name", [*OBJECTIVES, GATHERED, ELMO, *V6E, OWN])
def test_the_step_compiles_for_a_tpu_and_keeps_its_state_in_place(name, compiled):
    found = compiled[name]
    assert found["cycles"] > 0 and 0 < found["hbm"] < 2**30
    # Weights and both moments of AdamW, donated: nearly all, small ones are padded.
    assert found["aliased"] >= 3 * found["state"] > 0


def test_replicas_meet_in_an_all_reduce(compiled):
    for name in (REPLICATED, DIVIDED, GATHERED):
        assert compiled[name]["missing"].get("all-reduce", 0) >= 1
    assert "all-reduce" not in compiled["mlm"]["missing"]


def test_divided_slots_take_less_of_a_chip(compiled):
    whole, divided = compiled[REPLICATED], compiled[DIVIDED]
    # Only the token table is large enough here: three quarters of its moments are elsewhere.
    saved = 2 * 3 / 4 * VOCAB * SIZES["d_model"] * 4
    assert 0.8 * saved < whole["aliased"] - divided["aliased"] <= saved
    assert divided["missing"]["all-reduce"] > whole["missing"]["all-reduce"]
