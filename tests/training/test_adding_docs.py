"""docs/adding_an_objective.md and adding_an_optimizer.md, executed in a copy of the package."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.paths import ROOT
from tests.toy_runs import Corpus, flags_of
from tpu_tlm.config import OptimConfig
from tpu_tlm.config.objectives import OBJECTIVES as NAMES
from tpu_tlm.objectives.registry import OBJECTIVES
from tpu_tlm.training.metrics import read_metrics
from tpu_tlm.training.optimizers import OPTIMIZERS
from tpu_tlm.training.schedules import SCHEDULES


def blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def insert(path: Path, before: str, text: str) -> None:
    source = path.read_text()
    assert source.count(before) == 1, (path, before)
    path.write_text(source.replace(before, text + before))


def replace_declaration(path: Path, start: str, text: str) -> None:
    """Replace the statement or line that begins with `start`, up to its closing bracket."""
    pattern = re.compile(rf"^{re.escape(start)}[^\]]*\](?: = opt\()?\n?", re.MULTILINE)
    source, count = pattern.subn(lambda match: text, path.read_text())
    assert count == 1, (path, start)
    path.write_text(source)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with everything that the pages add."""
    base = tmp_path_factory.mktemp("extended")
    package = base / "tpu_tlm"
    shutil.copytree(ROOT / "tpu_tlm", package, ignore=shutil.ignore_patterns("__pycache__"))
    objective, group, names, line = blocks("adding_an_objective.md")
    (package / "objectives" / "smoothed_clm.py").write_text(objective)
    config = package / "config" / "objectives.py"
    insert(config, "OBJECTIVE_OPTIONS: tuple", group + "\n\n")
    replace_declaration(config, "ObjectiveName = Literal[", names)
    registry = package / "objectives" / "registry.py"
    insert(registry, "\n\ndef is_file", line)
    insert(
        registry,
        "from tpu_tlm.errors import",
        "from tpu_tlm.config.objectives import SmoothingConfig\n",
    )

    lion, line, choices, schedule, schedules = blocks("adding_an_optimizer.md")
    (package / "training" / "optimizers" / "lion.py").write_text(lion)
    registry = package / "training" / "optimizers" / "registry.py"
    insert(registry, "\n\ndef make_optimizer", line)
    insert(
        registry,
        "from tpu_tlm.training.optimizers.sgd",
        "from tpu_tlm.training.optimizers.lion import Lion\n",
    )
    options = package / "config" / "optimizer.py"
    replace_declaration(options, "    optimizer: Literal[", choices)
    replace_declaration(options, "    lr_schedule: Literal[", schedules)
    path = package / "training" / "schedules.py"
    path.write_text(path.read_text() + "\n\n" + schedule)
    return base


# Trains and evaluates in one process, which imports TensorFlow once.
BOTH = """
import sys
from importlib import import_module

end = sys.argv.index("then")
for name, arguments in (("train", sys.argv[1:end]), ("evaluate", sys.argv[end + 1 :])):
    assert import_module(f"tpu_tlm.{name}").main(arguments) == 0
"""


def run(base: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """Run Python in the copy."""
    environ = {"PYTHONPATH": str(base), "PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=base,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_what_the_pages_add_is_trained_and_evaluated(
    extended: Path, toy_corpus: Corpus, tmp_path: Path
) -> None:
    own = ("--objective", "smoothed-clm", "--xla", "false", "--eval_steps", "3")
    flags = flags_of(toy_corpus, tmp_path / "run", *own)
    flags += ["--label_smoothing", "0.2", "--optimizer", "lion", "--lr_schedule", "quadratic"]
    flags += ["--steps", "3", "--save_steps", "3", "--warmup_steps", "0", "--steps_per_call", "1"]
    measured = ["--model", tmp_path / "run", "--data", toy_corpus.valid, "--xla", "false"]
    measured += ["--distribute", "none"]
    done = run(extended, "-c", BOTH, *flags, "then", *measured)
    assert done.returncode == 0, done.stderr
    records = read_metrics(str(tmp_path / "run" / "metrics.jsonl"))
    rates = [r["lr"] for r in records if r["kind"] == "train"]
    np.testing.assert_allclose(rates, [3e-3, 3e-3 / 4, 0.0], rtol=1e-5)
    result = json.loads(done.stdout.splitlines()[-1])
    valid = [r for r in records if r["kind"] == "valid"][-1]
    assert result["objective"] == "smoothed-clm" and "perplexity" not in result
    assert result["loss"] == pytest.approx(valid["loss"], rel=1e-5)
    # The option belongs to this objective alone, and has the range that it declares.
    for more in (["--objective", "mlm"], ["--label_smoothing", "1.5"]):
        flags = flags_of(toy_corpus, tmp_path / "other", "--objective", "smoothed-clm")
        done = run(extended, "-m", "tpu_tlm.train", *flags, "--label_smoothing", "0.2", *more)
        assert done.returncode == 2 and "--label_smoothing" in done.stderr


def test_lion_is_keras_lion() -> None:
    scope: dict[str, object] = {"__name__": "lion"}
    exec(blocks("adding_an_optimizer.md")[0], scope)
    config = OptimConfig(beta1=0.9, beta2=0.99, weight_decay=0.0)
    ours = scope["Lion"].from_config(config)  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    start = rng.normal(size=(4, 3)).astype(np.float32)
    values, slots = [tf.constant(start)], ours.init_slots([tf.constant(start)])
    theirs, variable = keras.optimizers.Lion(0.01, 0.9, 0.99), keras.Variable(start)
    for step in range(10):
        grad = tf.constant(rng.normal(size=(4, 3)), tf.float32)
        values, slots = ours.apply(
            values, [grad], slots, lr=tf.constant(0.01), step=tf.constant(step), decay_mask=[True]
        )
        theirs.apply([grad], [variable])
    np.testing.assert_allclose(values[0], variable.numpy(), atol=1e-6)


def test_the_registries_have_the_choices_of_the_options() -> None:
    from tpu_tlm.config.options import options_of

    table = options_of([OptimConfig])
    assert set(OBJECTIVES) == set(NAMES)
    assert set(OPTIMIZERS) == set(table["optimizer"].choices)
    assert set(SCHEDULES) == set(table["lr_schedule"].choices)
