"""The Python snippets of the documentation run: here, or in a test that names their page."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.paths import ROOT
from tests.toy_runs import Corpus

# Page -> test that runs its snippets.
ELSEWHERE = {
    "README.md": "tests/test_readme.py",
    "docs/adding_a_format.md": "tests/formats/test_registry.py",
    "docs/adding_a_position_encoding.md": "tests/models/test_adding_a_position_encoding.py",
    "docs/adding_an_objective.md": "tests/training/test_adding_docs.py",
    "docs/adding_an_optimizer.md": "tests/training/test_adding_docs.py",
    "docs/configuration.md": "tests/test_docs.py",
    "docs/finetuning.md": "tests/tasks/test_docs.py",
    "docs/own_objective.md": "tests/objectives/test_custom.py",
    "docs/seq2seq.md": "tests/training/test_seq2seq_run.py",
}
HERE = (
    "docs/howto/continue_a_model.md",
    "docs/howto/leave.md",
    "docs/howto/own_task.md",
    "docs/model_files.md",
)


def snippets(page: str) -> list[str]:
    """The Python blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def test_every_page_with_python_is_run_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    found = {str(p.relative_to(ROOT)) for p in pages if snippets(str(p.relative_to(ROOT)))}
    assert found == {*ELSEWHERE, *HERE}
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8"), test


@pytest.fixture(scope="module")
def work(toy_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the snippets' paths exist: a small BERT for HuggingFace, and data."""
    from tests.training.test_warm_start import BERT, saved_of
    from tpu_tlm.data.dataset.dataset import open_dataset
    from tpu_tlm.formats.save import save

    base = tmp_path_factory.mktemp("snippets")
    saved = saved_of(BERT, open_dataset(str(toy_corpus.train)).load_tokenizer())
    (base / "work" / "data").mkdir(parents=True)
    save(saved, str(base / "work/hf"), "hf")
    os.symlink(toy_corpus.train, base / "work/data/train")
    os.symlink(toy_corpus.valid, base / "work/data/valid")
    return base


def run(code: str, where: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, where, "exec"), names)  # noqa: S102 - our own page
    return names


def _of_leave(word: str) -> str:
    (found,) = [code for code in snippets("docs/howto/leave.md") if word in code]
    return found


def needs(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


def _hidden(ids: np.ndarray) -> np.ndarray:
    """What this package computes from ids: float32 [B, T, d]."""
    import tpu_tlm as tlm
    from tpu_tlm.models.base import TransformerModel

    model: TransformerModel = tlm.load("work/hf").keras
    return np.asarray(model.encode({"x": ids}))


@pytest.mark.parametrize("word", ["import tensorflow as tf\nfrom safetensors", "import torch\n"])
def test_twenty_lines_give_the_same_vectors(
    word: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "torch" in word:
        needs("torch", "safetensors")
    monkeypatch.chdir(work)
    names = run(_of_leave(word), "leave.md")
    ids = np.array([[2, 7, 8, 9, 3], [2, 30, 31, 32, 3]])
    given: Any = ids
    if "torch" in word:
        given = names["torch"].from_numpy(ids)
    found = names["encode"](given)
    found = found.numpy() if hasattr(found, "numpy") else found
    np.testing.assert_allclose(found, _hidden(ids), atol=2e-5)


def test_transformers_fills_a_mask(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("transformers", "torch")
    monkeypatch.chdir(work)
    run(_of_leave("from transformers"), "leave.md")


def test_keras_and_the_task_of_ones_own(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    run(_of_leave("tlm.load_encoder"), "leave.md")
    model = run(snippets("docs/howto/own_task.md")[0], "own_task.md")["model"]
    assert model.output_shape == (None, 2)
    code = snippets("docs/model_files.md")[0].replace("path/to/model", "work/hf")
    assert run(code, "model_files.md")["model"].spec.kind == "mlm"


def test_a_saved_model(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("tensorflow_text")
    import tpu_tlm as tlm

    monkeypatch.chdir(work)
    tlm.convert("work/hf", "work/served", to="savedmodel", length=8)
    assert run(_of_leave("saved_model"), "leave.md")["out"]["hidden"].shape == (2, 8, 32)


def test_continuing_a_model(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    run(snippets("docs/howto/continue_a_model.md")[0], "continue_a_model.md")
    assert (work / "work/continued/report.html").is_file()
