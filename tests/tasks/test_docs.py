"""The commands and the Python of docs/finetuning.md run as they stand, on toy files."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.tasks.test_mead import PAGE
from tests.tasks.toy_tasks import reviews, toy_model
from tpu_tlm.convert import main as convert

TEXT = (ROOT / "docs" / "finetuning.md").read_text()


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.S)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [shlex.split(line) for line in joined.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("docs")
    toy_model(
        directory,
        transformer_type="post-layer-norm",
        embeddings_reduction="sum-layer-norm",
        mlm_head="bert",
        output_bias=True,
    )
    argv = [str(directory / "model.npz"), str(directory / "minilm"), "--to", "hf"]
    assert convert([*argv, "--tokenizer", str(directory / "tokenizer")]) == 0
    for seed, name in enumerate(("train", "valid", "test")):
        reviews(directory / f"{name}.csv", 48, seed=seed)
    (directory / "tags.conll").write_text("John B-PER\nruns O\n\nParis B-LOC\nis O\n\n" * 12)
    (directory / "mead.yml").write_text(PAGE.format(run=directory / "other"))
    (directory / "index.json").write_text(
        json.dumps([{"label": "bert-base-uncased-npz", "file": "minilm"}])
    )
    return directory


@pytest.mark.slow
def test_the_commands_run_in_order(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    found = commands()
    assert len(found) >= 7
    for argv in found:
        assert argv[:2] == ["python", "-m"]
        module = importlib.import_module(argv[2])
        more = ["--xla", "false"] if argv[2].endswith("finetune") else []
        if more and "--epochs" not in argv:
            more += ["--epochs", "1"]
        assert module.main([*argv[3:], *more]) == 0, argv
    assert (place / "runs/reviews/report.html").exists() and (place / "vectors.npz").exists()


def test_the_python_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    names: dict[str, object] = {}
    exec(compile(block, "finetuning.md", "exec"), names)  # noqa: S102
    import numpy as np
    import tensorflow as tf

    model = names["model"]
    out = model.predict(tf.constant(np.array(["a good day"])), verbose=0)  # type: ignore[attr-defined]
    assert out.shape == (1, 2)
