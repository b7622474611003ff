"""A start that fails before its first checkpoint leaves nothing, and hinders no other start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toy_runs import Corpus, options_of
from tpu_tlm.checkpoints.run_dir import CONTENTS, RunDir
from tpu_tlm.checkpoints.run_lock import locked
from tpu_tlm.checkpoints.unsaved_start import removed_unless_saved
from tpu_tlm.config import Config
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.training import Callback, train

IDENTITY = {"tokenizer": "a" * 64}


def start(run_dir: Path, **values) -> RunDir:
    run = RunDir(str(run_dir))
    run.prepare(Config(train_dir="d", run_dir=str(run_dir), **values).parts(), IDENTITY)
    for name in ("tb", "npz"):
        (run_dir / name).mkdir(exist_ok=True)
    (run_dir / "metrics.jsonl").write_text("{}\n")
    return run


def fails(run_dir: Path, save: bool = False) -> None:
    with (
        pytest.raises(TlmError, match="no memory"),
        locked(str(run_dir)),
        removed_unless_saved(str(run_dir)),
    ):
        run = start(run_dir)
        if save:
            Path(run.checkpoints, "step-00000001").mkdir()
        raise TlmError("no memory")


def test_nothing_is_left(tmp_path: Path) -> None:
    fails(tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_stays(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    fails(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "notes.txt", "tokenizer"]


def test_a_saved_run_stays(tmp_path: Path) -> None:
    fails(tmp_path / "run", save=True)
    there = {path.name for path in (tmp_path / "run").iterdir()}
    assert there == {"lock", "config.yaml", "identity.json", "tokenizer", "checkpoints"} | (
        {"tb", "npz", "metrics.jsonl"}
    )
    assert there - {"lock"} <= set(CONTENTS)


def test_what_a_killed_start_left_is_no_run(tmp_path: Path) -> None:
    start(tmp_path, d_model=64)
    run = start(tmp_path, d_model=128, seed=3)
    assert run.load([type(Config().model)])[0].d_model == 128
    fails(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


class Fails(Callback):
    """Ends the run after its first device call."""

    def on_step(self, report: object) -> None:
        raise TlmError("no memory")


def test_a_start_of_training(toy_corpus: Corpus, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    config = options_of(toy_corpus, run_dir, "--steps", 20, "--xla", "false")
    with pytest.raises(UsageError, match="gone: no such"):
        train(config.replace(init_from=str(tmp_path / "gone")), display=False)
    assert not run_dir.exists()
    with pytest.raises(TlmError, match="no memory"):
        train(config, callbacks=[Fails()], display=False)
    assert not run_dir.exists()
