"""A fine-tuning run from files to report: it learns, continues bit for bit, repeats over seeds."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests import preloaded
from tests.paths import ROOT
from tests.tasks.toy_tasks import cpu, options, reviews, toy_model
from tpu_tlm.checkpoints.manager import Checkpoints
from tpu_tlm.errors import Preempted, UsageError
from tpu_tlm.formats.load import load
from tpu_tlm.training.finetuning.finetune import finetune
from tpu_tlm.training.finetuning.run import FinetuneRun


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("finetune")
    toy_model(directory)
    reviews(directory / "train.csv", 160)
    reviews(directory / "valid.csv", 60, seed=1)
    reviews(directory / "test.csv", 60, seed=2)
    return directory


@pytest.fixture(scope="module")
def files(place: Path) -> dict[str, str]:
    return {name: str(place / f"{name}.csv") for name in ("train", "valid", "test")}


def test_it_learns_and_writes_predictions_and_reports(place: Path, files: dict[str, str]) -> None:
    result = finetune(options(place, **files, lr=1e-2, epochs=8, buckets=2), cpu())
    assert result.test is not None and result.test["accuracy"] > 0.9
    run = Path(result.run_dir)
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 60 and {"text", "gold", "guess", "probability"} <= lines[0].keys()
    right = np.mean([line["gold"] == line["guess"] for line in lines])
    assert right == pytest.approx(result.test["accuracy"])
    report = json.loads((run / "report.json").read_text())
    assert report["labels"] == ["neg", "pos"] and report["train_counts"]["pos"] > 0
    low, high = report["test"]["interval"]["low_high"]
    assert low <= result.test["accuracy"] <= high
    assert "<svg" in (run / "report.html").read_text()
    # The encoder of the run is a model for every other command.
    saved = load(str(run))
    assert saved.spec.kind == "embed" and saved.tokenizer().tokens[2] == "[CLS]"
    saved.model()


def test_a_stopped_run_continues_bit_for_bit(
    place: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = (
        options(
            place, **files, epochs=2, buckets=2, group_by_length=False, run_dir=str(place / name)
        )
        for name in ("whole", "parts")
    )
    finetune(whole, cpu())
    told = FinetuneRun._told

    def stop(self: FinetuneRun) -> bool:
        self._calls.steps = 1
        if self.at == 7 and not self.notice.reason:
            self.notice.give("test")
        return told(self)

    with monkeypatch.context() as patch:
        patch.setattr(FinetuneRun, "_told", stop)
        with pytest.raises(Preempted, match="step 7"):
            finetune(parts, cpu())
    finetune(parts, cpu())
    ends = []
    for name in ("whole", "parts"):
        found = Checkpoints(str(place / name / "progress")).newest()
        assert found is not None
        ends.append(found)
    first, second = (end.load() for end in ends)
    assert ends[0].step == ends[1].step and first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)
    histories = [end.state["history"]["epochs"] for end in ends]
    assert [e["train_loss"] for e in histories[0]] == [e["train_loss"] for e in histories[1]]


def test_seeds_give_mean_and_spread(place: Path, files: dict[str, str]) -> None:
    result = finetune(
        options(place, **files, seeds=2, epochs=1, run_dir=str(place / "seeds")), cpu()
    )
    summary = json.loads((place / "seeds" / "seeds.json").read_text())
    values = summary["test"]["accuracy"]["values"]
    assert len(values) == 2 and result.test is not None
    assert result.test["accuracy"] == pytest.approx(np.mean(values))
    assert {Path(run).name for run in result.runs} == {"seed-0", "seed-1"}


@pytest.mark.parametrize("kind", ["seeds", "trials"])
def test_a_signal_in_the_last_evaluation_stops_before_the_next_run(
    kind: str, place: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = place / f"late-{kind}"
    several = {"seeds": 2} if kind == "seeds" else {"trials": True, "trial_lrs": [1e-3, 1e-2]}
    chosen = options(place, **files, **several, epochs=1, run_dir=str(base))
    evaluate = FinetuneRun._evaluate_epoch

    def late(self: FinetuneRun) -> None:
        evaluate(self)
        os.kill(os.getpid(), signal.SIGTERM)
        until = time.monotonic() + 30
        while not self.notice.reason and time.monotonic() < until:
            time.sleep(0.01)

    with monkeypatch.context() as patch:
        patch.setattr(FinetuneRun, "_evaluate_epoch", late)
        with pytest.raises(Preempted, match="SIGTERM.*complete") as stopped:
            finetune(chosen, cpu())
    assert stopped.value.exit_code == 143
    first, second = (
        (base / "seed-0", base / "seed-1")
        if kind == "seeds"
        else (base / "trials/lr-0.001-epochs-1", base / "trials/lr-0.01-epochs-1")
    )
    assert (first / "report.json").exists() and not second.exists()
    finetune(chosen, cpu())
    assert (second / "report.json").exists()


def test_trials_choose_by_validation(
    place: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = options(
        place,
        **files,
        trials=True,
        trial_lrs=[1e-7, 1e-2],
        epochs=3,
        run_dir=str(place / "trials"),
    )
    finetune(chosen, cpu())
    table = json.loads((place / "trials" / "trials.json").read_text())
    assert [row["lr"] for row in table] == [1e-7, 1e-2]
    report = json.loads((place / "trials" / "report.json").read_text())
    assert report["settings"]["lr"] == 1e-2
    assert "<- best" in capsys.readouterr().out


def test_without_valid_a_stratified_share_is_held_out(
    place: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    finetune(options(place, train=files["train"], epochs=1, run_dir=str(place / "held")), cpu())
    out = capsys.readouterr().out
    assert "held out" in out and "stratified" in out


def test_frozen_features_are_encoded_once(
    place: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = options(
        place, **files, finetune=False, lr=2e-2, epochs=15, run_dir=str(place / "frozen")
    )
    result = finetune(frozen, cpu())
    assert "encoded 160 training texts once" in capsys.readouterr().out
    losses = [
        e["train_loss"] for e in json.loads((place / "frozen/report.json").read_text())["epochs"]
    ]
    assert losses[-1] < 0.95 * losses[0] and result.test is not None
    before, after = load(str(place / "model.npz")), load(str(place / "frozen"))
    for path, value in after.values.items():
        np.testing.assert_array_equal(value, before.values[path], err_msg=path)
    finetune(frozen, cpu())
    assert "encoded" not in capsys.readouterr().out


def test_freezing_by_depth_leaves_the_lower_blocks(place: Path, files: dict[str, str]) -> None:
    finetune(options(place, **files, freeze=1, epochs=1, run_dir=str(place / "depth")), cpu())
    before, after = load(str(place / "model.npz")), load(str(place / "depth"))
    for path, value in after.values.items():
        same = np.array_equal(value, before.values[path])
        frozen = path.startswith(("embeddings/", "encoder/0/"))
        assert same == frozen or not np.any(value), path


def test_patience_stops_early(
    place: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    finetune(
        options(place, **files, lr=1e-9, epochs=6, patience=1, run_dir=str(place / "patience")),
        cpu(),
    )
    out = capsys.readouterr().out
    assert "has not improved for 1 epochs" in out and "epoch 3" not in out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": float("nan")}, "epochs"),
        ({"layer_decay": 1.5}, "layer_decay"),
        ({"max_length": 4000}, "max_length 4000"),
        ({"stride": 99}, "stride 99"),
        ({"freeze": 3}, "freeze 3"),
        ({"pair_encoder": "shared"}, "pair_encoder"),
        ({"finetune": False, "freeze": 1}, "freeze"),
        ({"metric": "bleu"}, "metric bleu"),
        ({"label": "stars"}, "'stars'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    place: Path, files: dict[str, str], changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        finetune(options(place, **files, run_dir=str(tmp_path / "run"), **changes), cpu())
    assert not list(tmp_path.iterdir()), "a start that fails leaves nothing"


def test_options_of_training_work_together(place: Path, files: dict[str, str]) -> None:
    result = finetune(
        options(
            place,
            **files,
            precision="bfloat16",
            grad_accum=2,
            buckets=2,
            batch_tokens=256,
            layer_decay=0.8,
            head_lr=2e-2,
            hidden=[16],
            class_weights="balanced",
            metric="loss",
            lr_schedule="cosine",
            epochs=1.5,
            run_dir=str(place / "together"),
        ),
        cpu(),
    )
    report = json.loads((place / "together" / "report.json").read_text())
    assert len(report["epochs"]) == 2 and result.metric == "loss"
    assert np.isfinite(result.valid["loss"])


@pytest.mark.long
def test_two_replicas_give_the_model_of_one(place: Path, files: dict[str, str]) -> None:
    command = [sys.executable, "-m", "tpu_tlm.finetune", "--model", str(place / "model.npz")]
    command += ["--tokenizer", str(place / "tokenizer"), "--epochs", "1", "--xla", "false"]
    command += ["--batch_size", "16", "--lr", "1e-3", "--buckets", "2"]
    for name, path in files.items():
        command += [f"--{name}", path]
    for name, more in {
        "one": ["--distribute", "none"],
        "two": ["--distribute", "mirror", "--logical_cpus", "2"],
    }.items():
        preloaded.run([*command, "--run_dir", str(place / name), *more], check=True, cwd=ROOT)
    first, second = (load(str(place / name)).values for name in ("one", "two"))
    for path, value in first.items():
        np.testing.assert_allclose(value, second[path], atol=1e-5, err_msg=path)
    reports = [json.loads((place / n / "report.json").read_text()) for n in ("one", "two")]
    assert reports[0]["test"]["metrics"]["loss"] == pytest.approx(
        reports[1]["test"]["metrics"]["loss"], abs=1e-4
    )
