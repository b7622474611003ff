"""The commands and the Python of docs/finetuning.md run as they stand, on toy files."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from tests.paths import ROOT
from tests.tasks.test_mead import PAGE
from tests.tasks.toy_tasks import reviews, tags, toy_model
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.formats.huggingface.write import hf_files
from tpu_tlm.formats.load import load

TEXT = (ROOT / "docs" / "finetuning.md").read_text()


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.S)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [shlex.split(line) for line in joined.splitlines() if line.strip()]


def toy_bert(directory: Path, target: Path) -> None:
    """Write a random BERT with a pooler as a HuggingFace directory."""
    toy_model(
        directory,
        transformer_type="post-layer-norm",
        embeddings_reduction="sum-layer-norm",
        mlm_head="bert",
        output_bias=True,
    )
    saved = load(str(directory / "model.npz"))
    rng = np.random.default_rng(7)
    extras = {
        "pooler/kernel": rng.normal(0, 0.2, (32, 32)).astype(np.float32),
        "pooler/bias": np.zeros(32, np.float32),
    }
    tokenizer = load_tokenizer(str(directory / "tokenizer"))
    files, _ = hf_files(saved.replaced(extras=extras, own_tokenizer=tokenizer), "bert")
    target.mkdir()
    for name, data in files.items():
        (target / name).write_bytes(data)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("docs")
    toy_bert(directory, directory / "minilm")
    for seed, name in enumerate(("train", "valid", "test")):
        reviews(directory / f"{name}.csv", 48, seed=seed)
    tags(directory / "tags.conll", 24)
    (directory / "mead.yml").write_text(PAGE.format(run=directory / "other"))
    (directory / "index.json").write_text(
        json.dumps([{"label": "bert-base-uncased-npz", "file": "minilm"}])
    )
    return directory


@pytest.fixture(scope="module")
def ran(place: Path) -> Path:
    """The directory after all commands of the page, in their order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for argv in commands():
            assert argv[:2] == ["python", "-m"]
            module = importlib.import_module(argv[2])
            more = ["--xla", "false", "--buckets", "1"] if argv[2].endswith("finetune") else []
            if more and "--epochs" not in argv:
                more += ["--epochs", "1"]
            assert module.main([*argv[3:], *more]) == 0, argv
    return place


def test_the_commands_run_in_order(ran: Path) -> None:
    assert len(commands()) >= 7
    assert (ran / "runs/reviews/report.html").exists() and (ran / "vectors.npz").exists()


def test_the_python_runs(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ran)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len(blocks) > 1
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "finetuning.md", "exec"), names)  # noqa: S102
    import tensorflow as tf

    model = names["model"]
    out = model.predict(tf.constant(np.array(["a good day"])), verbose=0)  # type: ignore[attr-defined]
    assert out.shape == (1, 2)
