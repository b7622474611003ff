"""Run directories, datasets, NPZ files and exports that the first edition wrote are still read.

`files` and `expected.json` were written by `make.py` at commit 6530876. Only command lines in the
spelling of that time are used here, so the names of modules and options may change.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.first_edition.commands import call, checksums, figures, objects

HERE = Path(__file__).resolve().parent
EXPECTED = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
RUNS, MODELS = EXPECTED["runs"], EXPECTED["models"]
# Continued by `make test-all` only: `make test` has others of their kinds.
LATER = ("seq2seq_denoising", "dual_encoder")


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files as working directory, since the command lines name relative paths."""
    shutil.copytree(HERE / "files", tmp_path / "files")
    for archive in (tmp_path / "files" / "exports").glob("*.tar.xz"):
        shutil.unpack_archive(archive, archive.parent)
    # Kept outside `files`: its imports follow the package where old module names end.
    shutil.copy(HERE / "own_objective.py", tmp_path / "files")
    monkeypatch.chdir(tmp_path / "files")
    return tmp_path / "files"


def assert_agrees(found: Any, expected: Any, rel: float, where: str = "") -> None:
    """Numbers within a relative tolerance, all else equal; a mapping may have more keys."""
    if isinstance(expected, Mapping):
        for key, value in expected.items():
            assert key in found, f"{where}: no {key}"
            assert_agrees(found[key], value, rel, f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            assert_agrees(found[number], value, rel, f"{where}/{number}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=rel, abs=1e-7, nan_ok=True), where
    else:
        assert found == expected, where


def assert_evaluates(record: Mapping[str, Any]) -> None:
    (found,) = objects(call("evaluate", *record["argv"]))
    assert_agrees(found, record["result"], rel=1e-5)


def assert_close(path: str, expected: Mapping[str, list[float]]) -> None:
    """Sum, norm and first values of every weight within 1e-4, of the array's norm for the sum."""
    found = figures(path)
    assert set(found) == set(expected)
    for key, (total, norm, *first) in expected.items():
        sums, norms, *firsts = found[key]
        assert sums == pytest.approx(total, abs=1e-4 * (1 + norm)), f"{key}: sum"
        assert norms == pytest.approx(norm, rel=1e-4, abs=1e-4), f"{key}: norm"
        assert firsts == pytest.approx(first, rel=1e-4, abs=1e-4), f"{key}: first values"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            n, marks=[pytest.mark.long] if n in ("seq2seq_denoising", "dual_encoder") else []
        )
        for n in RUNS
    ],
)
def test_a_run_evaluates_converts_and_continues(name: str) -> None:
    """The weights are the same bits, and further steps by the old command give the same numbers."""
    run = RUNS[name]
    assert_evaluates(run["evaluate"])
    call("convert", f"runs/{name}", "before.npz")
    assert checksums("before.npz") == run["arrays"]
    # What the first edition did not write is tested elsewhere.
    shown = call("train", *run["continue"], "--report", "false", "--samples", "0")
    assert f"{_option(run, '--steps')} in all" in shown
    call("convert", f"runs/{name}", "after.npz")
    assert_close("after.npz", run["continued"]["arrays"])


def _option(run: Mapping[str, Any], flag: str) -> str:
    argv = run["continue"]
    return str(argv[argv.index(flag) + 1])


@pytest.mark.parametrize("name", MODELS)
def test_an_exported_model_is_read(name: str) -> None:
    """NPZ, HuggingFace, BERT checkpoint, SavedModel: read by convert with the same bits."""
    call("convert", f"exports/{name}", "model.npz")
    assert checksums("model.npz") == MODELS[name]["arrays"]
    if "evaluate" in MODELS[name]:
        assert_evaluates(MODELS[name]["evaluate"])


def test_the_npz_that_training_writes_is_read() -> None:
    (name,) = os.listdir("runs/mlm/npz")
    call("convert", f"runs/mlm/npz/{name}", "model.npz")
    assert checksums("model.npz") == RUNS["mlm"]["arrays"]


@pytest.mark.parametrize("name", EXPECTED["evaluations"])
def test_other_datasets_are_read(name: str) -> None:
    assert_evaluates(EXPECTED["evaluations"][name])


@pytest.mark.parametrize("number", range(len(EXPECTED["predict"])))
def test_predictions_are_the_same(number: int) -> None:
    record = EXPECTED["predict"][number]
    found = objects(call("predict", *record["argv"]))
    assert_agrees(found, record["result"], rel=1e-4)
