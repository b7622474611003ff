"""Toy runs that are trained once per test session and shared; `tests/conftest.py` imports them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.toy import BARE, SIZES, toy_dataset
from tpu_tlm.config import Config, cli

# TensorFlow is imported where a run is trained: tests without it start in a second.
if TYPE_CHECKING:
    from tpu_tlm.devices.select import Devices
    from tpu_tlm.training import Callback
    from tpu_tlm.training.result import TrainResult

# Exports, checkpoints and everything else that the shared run writes.
SEEN = ("--tensorboard", "true", "--report", "true", "--samples", "4")
EXPORT = ("--keep", "2", "--keep_every", "10", "--steps_per_call", "7", "--export_npz", "true")
WHOLE = ("--steps", "30", "--save_steps", "5", "--eval_steps", "10", *EXPORT, *SEEN)


@dataclass(frozen=True)
class Corpus:
    """A training and a validation dataset."""

    train: Path
    valid: Path


@dataclass(frozen=True)
class ToyRun:
    """A finished run of 30 steps, which tests must not change; `output`: what was printed."""

    run_dir: Path
    corpus: Corpus
    result: TrainResult
    output: str


def flags_of(corpus: Corpus, run_dir: Path, *flags: object) -> list[str]:
    """The flags of a toy run, which is `BARE`; the last one of a name counts.

    It validates where `--eval_steps` is given: that takes two fifths of the time of a toy run.
    """
    given = ["--train_dir", corpus.train, "--run_dir", run_dir, *SIZES]
    if "--eval_steps" in flags:
        given += ["--valid_dir", corpus.valid]
    given += ["--batch_size", 8, "--warmup_steps", 5, "--lr", 3e-3, "--distribute", "none"]
    given += [*BARE, *flags]
    return [str(flag) for flag in given]


def options_of(corpus: Corpus, run_dir: Path, *flags: object) -> Config:
    """The options of a toy run."""
    return Config(*cli.parse("toy", "", Config.groups(), flags_of(corpus, run_dir, *flags)))


def one_device() -> Devices:
    """This process's processor, without XLA, which compiles slowly."""
    from tpu_tlm.devices.select import Devices

    return Devices(None, "cpu", 1, "CPU", "for tests", xla=False)


def fit(options: Config, callbacks: Iterable[Callback] = ()) -> TrainResult:
    """Train in this process."""
    from tpu_tlm.training import make_trainer

    return make_trainer(options, one_device(), callbacks=callbacks, display=False).fit()


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Sentences that count upwards."""
    base = tmp_path_factory.mktemp("toy_corpus")
    valid = toy_dataset(base / "valid", examples=21, shards=1, seed=1)
    return Corpus(toy_dataset(base / "train"), valid)


@pytest.fixture(scope="session")
def toy_run(toy_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """A masked language model, 30 steps, never interrupted."""
    run_dir = tmp_path_factory.mktemp("toy_run") / "run"
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "builtins.print", lambda *text, **how: printed.append(" ".join(map(str, text)))
        )
        result = fit(options_of(toy_corpus, run_dir, *WHOLE))
    return ToyRun(run_dir, toy_corpus, result, "\n".join(printed))


@pytest.fixture(scope="session")
def contract_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], object]:
    """A run of a few steps of an objective by name (`tests.objectives.contract.Trained`)."""
    from tests.objectives.contract import case_of, prepare

    runs: dict[str, object] = {}

    def of(name: str) -> object:
        if name not in runs:
            runs[name] = prepare(case_of(name), tmp_path_factory.mktemp(name))
        return runs[name]

    return of
