"""The notebooks run from top to bottom with small parameters, and are stored without outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.paths import ROOT

COLAB = ROOT / "colab"
NOTEBOOKS = sorted(path.name for path in COLAB.glob("*.ipynb"))


def _cells(name: str) -> list[dict[str, Any]]:
    return json.loads((COLAB / name).read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_clean(name: str) -> None:
    """No outputs, one cell of parameters with form fields, a badge that names the file itself."""
    cells = _cells(name)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    (parameters,) = [cell for cell in code if "parameters" in cell["metadata"].get("tags", ())]
    assert all("# @param" in line for line in parameters["source"])
    badge = "".join(cells[0]["source"])
    assert f"/colab/{name}" in badge and "colab-badge.svg" in badge


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_drive_and_buckets_are_opened(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a google.colab that notes its calls, for every setting that may be a path there."""
    package = tmp_path / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("calls = []\n")
    note = "from google.colab import calls\ndef {0}(*args):\n    calls.append(args)\n"
    (package / "drive.py").write_text(note.format("mount"))
    (package / "auth.py").write_text(note.format("authenticate_user"))
    import google

    monkeypatch.setattr(google, "__path__", [*google.__path__, str(package.parent)])
    (source,) = [
        "".join(c["source"]) for c in _cells(name) if "drive.mount" in "".join(c["source"])
    ]
    opening = source.split("if not text:")[0]
    names = opening.split("places = [")[1].split("]")[0].split(", ")
    here = dict.fromkeys(names, "here")
    for place in names:
        for path, expected in (
            ("/content/drive/MyDrive/x", [("/content/drive",)]),
            ("gs://bucket/x", [()]),
            ("here", []),
        ):
            exec(compile(opening, name, "exec"), {**here, place: path})
            from google.colab import calls  # type: ignore[import-not-found]

            assert calls == expected, (place, path)
            calls.clear()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    words = ("old red dog", "shy big cat", "good long day")
    lines = [f"the {a} of the {b} is here ." for a in words for b in words]
    path = tmp_path / "my.txt"
    documents = (f"text {i}\n" + "\n".join(lines) for i in range(200))
    path.write_text("\n\n".join(documents) + "\n")
    return path


@pytest.mark.long
def test_an_interrupted_notebook_is_run_again_to_the_same_result(
    text: Path, tmp_path: Path
) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    from nbclient.exceptions import CellExecutionError

    import tpu_tlm as tlm
    from tests.colab.runner import run

    options = {"text": str(text), "steps": 400, "batch_size": 8, "seq_length": 16}
    options |= {"vocab_size": 60, "preset": "bert-tiny", "sentence": "the [MASK] dog"}
    notebook = COLAB / "pretrain_on_tpu.ipynb"
    for name in ("whole", "interrupted"):
        (tmp_path / name).mkdir()
    run(notebook, tmp_path / "whole", options)
    place = tmp_path / "interrupted"
    with pytest.raises(CellExecutionError, match="continue"):
        run(notebook, place, options, interrupt_at=place / "tlm_work" / "run" / "metrics.jsonl")
    assert not (place / "tlm_work" / "hf_model").exists()
    run(notebook, place, options)
    models = [
        tlm.load(tmp_path / n / "tlm_work" / "run").pretrained.values
        for n in ("whole", "interrupted")
    ]
    assert models[0].keys() == models[1].keys()
    assert all(np.array_equal(value, models[1][name]) for name, value in models[0].items())


def test_they_run(text: Path, tmp_path: Path) -> None:
    """Pre-training, run twice (the second finds everything done); continued; fine-tuned."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    from tests.colab.runner import run, with_parameters

    small = {"text": str(text), "steps": 4, "batch_size": 8, "seq_length": 16}
    first = {**small, "vocab_size": 60, "preset": "bert-tiny", "sentence": "the [MASK] dog"}
    for _ in range(2):
        done = run(COLAB / "pretrain_on_tpu.ipynb", tmp_path, first)
    shown = "".join(o.get("text", "") for c in done.cells for o in c.get("outputs", ()))
    assert "nothing to do" in shown and "%" in shown
    assert (tmp_path / "tlm_work" / "hf_model" / "model.safetensors").exists()
    continued = {**small, "model_dir": "tlm_work/hf_model", "work": "continued"}
    run(COLAB / "continue_pretraining.ipynb", tmp_path, continued)
    assert (tmp_path / "continued" / "hf_model" / "config.json").exists()
    animals = ("old dog", "big cat", "red dog", "shy cat")
    rows = [f"the {a} is here {i},{'dog' in a}" for i in range(10) for a in animals]
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    example = 'the "old" dog\'s $HOME'  # to be given to a shell as it stands
    tuned = {"model_path": "tlm_work/run", "epochs": 1, "batch_size": 8, "example": example}
    done = run(COLAB / "finetune.ipynb", tmp_path, tuned)
    shown = "".join(o.get("text", "") for c in done.cells for o in c.get("outputs", ()))
    assert f"\t{example}" in shown
    assert (tmp_path / "classifier" / "report.html").exists()
    import nbformat

    notebook = nbformat.read(COLAB / "finetune.ipynb", as_version=4)
    with pytest.raises(ValueError, match="no_such"):
        with_parameters(notebook, {"no_such": 1})
