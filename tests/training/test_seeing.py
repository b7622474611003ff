"""What shows a run: TensorBoard's page, guesses at every save, Weights & Biases, MLflow."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tests.ports import free_ports
from tests.toy_runs import Corpus, ToyRun, fit, options_of
from tpu_tlm.checkpoints.run_dir import RunDir
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.load import load
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.training import loggers
from tpu_tlm.training.callbacks import EvaluationReport, RunStart, SaveReport
from tpu_tlm.training.recorders import RecordMetrics
from tpu_tlm.training.report.collect import collect
from tpu_tlm.training.report.examples import examples
from tpu_tlm.training.samples import GuessSamples, answers, as_markdown, questions, read_samples


def needs(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


def fetched(url: str, seconds: float = 90.0) -> bytes:
    """The answer of a server that is starting."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return answer.read()
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end:
                raise
            time.sleep(0.3)


def test_tensorboard_starts_and_serves_the_run(toy_run: ToyRun) -> None:
    """The command of the environment, over HTTP: scalars, hyper-parameters, texts."""
    (port,) = free_ports(1)
    program = Path(sys.executable).with_name("tensorboard")
    assert program.exists()
    server = subprocess.Popen(
        [str(program), "--logdir", str(toy_run.run_dir / "tb"), "--port", str(port)]
        + ["--host", "127.0.0.1", "--reload_interval", "1", "--load_fast", "false"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    base = f"http://127.0.0.1:{port}/data"
    try:
        found: dict[str, dict[str, object]] = {}
        for _ in range(400):
            if server.poll() is not None:
                pytest.fail(server.stdout.read() if server.stdout else "")
            found = json.loads(fetched(f"{base}/plugin/scalars/tags", 240))
            if {"train", "valid"} <= set(found):
                break
            time.sleep(0.3)
        assert "loss" in found["train"] and "loss" in found["valid"]
        curve = json.loads(fetched(f"{base}/plugin/scalars/scalars?run=train&tag=loss"))
        assert curve[-1][1] == 30 and np.isfinite(curve[-1][2])
        texts = json.loads(fetched(f"{base}/plugin/text/text?run=samples&tag=guesses"))
        assert texts[-1]["step"] == 30 and "[MASK]" in texts[-1]["text"]
        body = json.dumps({"experimentName": ""})
        request = urllib.request.Request(
            f"{base}/plugin/hparams/experiment", body.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            named = {one["name"] for one in json.loads(answer.read())["hparamInfos"]}
        assert {"lr", "batch_size", "d_model", "optimizer"} <= named
    finally:
        server.kill()
        server.wait()


def test_the_same_tokens_are_guessed_at_every_save(toy_run: ToyRun) -> None:
    records = read_samples(str(toy_run.run_dir / "samples.jsonl"))
    assert [record["step"] for record in records] == [5, 10, 15, 20, 25, 30]
    first, last = records[0]["samples"], records[-1]["samples"]
    assert len(last) == 4
    for one, other in zip(first, last, strict=True):
        assert one["text"] == other["text"] and one["text"].count("[MASK]") == 1
        assert re.fullmatch(r"w\d+", other["gold"])
        shares = [share for _, share in other["guesses"]]
        assert len(shares) == 3 and shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1 and one["guesses"] != other["guesses"]


def test_guesses_are_those_of_the_saved_model_and_take_no_copy_of_it(
    toy_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[GuessSamples] = []
    on_save = GuessSamples.on_save

    def told(self: GuessSamples, report: SaveReport) -> None:
        seen.append(self)
        on_save(self, report)

    monkeypatch.setattr(GuessSamples, "on_save", told)
    run = tmp_path / "run"
    flags = ("--steps", 4, "--warmup_steps", 1, "--save_steps", 2, "--samples", 3)
    fit(options_of(toy_corpus, run, *flags))
    assert len(seen) == 2 and seen[0]._model is not None
    assert all(v._value is None for v in named_variables(seen[0]._model).values())
    records = read_samples(str(run / "samples.jsonl"))
    saved = load(str(run))
    found = answers(saved.model(), seen[0]._asked, saved.spec, saved.tokenizer())
    for sample, told_of in zip(found, records[-1]["samples"], strict=True):
        assert [list(guess) for guess in sample.guesses] == told_of["guesses"]


def test_the_report_shows_them(toy_run: ToyRun) -> None:
    run = collect(str(toy_run.run_dir))
    page = (toy_run.run_dir / "report.html").read_text()
    text = run.samples[0]["samples"][0]["text"]
    assert text in page and 'class="examples"' in page and "step 30" in page
    run.samples[0]["samples"][0]["text"] = "<script>"
    run.samples = run.samples[:1]
    assert "<script>" not in "".join(examples([run]))
    run.samples = []
    assert examples([run]) == []


def test_questions_of_a_causal_model_hide_what_follows(toy_corpus: Corpus) -> None:
    dataset = open_dataset(str(toy_corpus.valid))
    tokenizer = dataset.load_tokenizer()
    config = options_of(toy_corpus, Path("run")).model
    asked = questions(dataset, tokenizer, ModelSpec(config, 45, 16, kind="clm"), 3)
    for question in asked:
        assert tokenizer.tokens[question.ids[question.at + 1]] == question.gold
        assert question.text.endswith("___") and question.gold not in question.text.split()
    assert questions(dataset, tokenizer, ModelSpec(config, 45, 16, kind="dual"), 3) == []
    assert "|" in as_markdown([])


@pytest.mark.parametrize("text", ["", "[]", "{", '{"step": 1}', '{"step": true, "samples": []}'])
def test_a_damaged_file_of_samples_has_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text(text)
    assert read_samples(str(tmp_path / "samples.jsonl")) == []


OPTIONS = {"lr": 1e-3, "position_encoding": ["shaw"], "valid_dir": None}


def log(name: str, run_dir: Path, step: int) -> None:
    """What a run of two steps sends."""
    RunDir(str(run_dir))
    callback = RecordMetrics(name, lambda start: loggers.make_logger(name, str(run_dir), OPTIONS))
    callback.on_start(RunStart(step, step + 2, str(run_dir)))
    callback.on_evaluate(EvaluationReport(step, {"loss": 1.5, "recall@1": 0.5}, 3))
    callback.on_end()


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log("wandb", tmp_path, 1)
    log("wandb", tmp_path, 2)
    known = json.loads((tmp_path / "loggers.json").read_text())["wandb"]
    runs = sorted((tmp_path / "wandb").glob(f"offline-run-*-{known}"))
    assert runs, list((tmp_path / "wandb").iterdir())
    stored = b"".join(p.read_bytes() for run in runs for p in run.glob("*.wandb"))
    assert b"valid/loss" in stored and b"position_encoding" in stored


def test_mlflow_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    log("mlflow", tmp_path, 1)
    log("mlflow", tmp_path, 2)
    known = json.loads((tmp_path / "loggers.json").read_text())["mlflow"]
    (run,) = (tmp_path / "mlruns").glob(f"*/{known}")
    lines = (run / "metrics" / "valid" / "loss").read_text().splitlines()
    assert [line.split()[2] for line in lines] == ["1", "2"]
    assert (run / "params" / "lr").read_text() == "0.001"


def test_a_logger_that_is_not_there(toy_corpus: Corpus, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--log wandb: is not installed: pip install"):
        fit(options_of(toy_corpus, tmp_path / "run", "--steps", 20, "--log", "wandb"))
    assert not (tmp_path / "run").exists()


def test_a_logger_that_fails_ends_no_run(tmp_path: Path, monkeypatch, capsys) -> None:
    def fails(*_: object) -> None:
        raise ValueError("no network")

    monkeypatch.setattr(loggers, "WandbLogger", fails)
    log("wandb", tmp_path, 1)
    assert "no network" in capsys.readouterr().err
