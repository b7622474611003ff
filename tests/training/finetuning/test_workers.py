"""Fine-tuning by two real worker processes: the losses and predictions of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import preloaded
from tests.paths import ROOT
from tests.ports import free_ports
from tests.tasks.toy_tasks import cpu, options, reviews, toy_model
from tpu_tlm.training.finetuning.finetune import finetune


def test_two_workers_train_what_one_does(tmp_path: Path) -> None:
    toy_model(tmp_path)
    for name, seed in (("train", 0), ("valid", 1), ("test", 2)):
        reviews(tmp_path / f"{name}.csv", 40, seed=seed)
    files = {name: str(tmp_path / f"{name}.csv") for name in ("train", "valid", "test")}
    given = {**files, "batch_size": 8, "epochs": 2, "lr": 1e-2, "buckets": 1}
    given |= {"dropout": 0.0, "head_dropout": 0.0, "seed": 0}
    finetune(options(tmp_path, **given, run_dir=str(tmp_path / "one")), cpu())
    command = [sys.executable, "-m", "tpu_tlm.finetune", "--task", "classify", "--xla", "false"]
    command += ["--model", str(tmp_path / "model.npz"), "--tokenizer", str(tmp_path / "tokenizer")]
    command += ["--run_dir", str(tmp_path / "two")]
    command += [str(part) for name, value in given.items() for part in (f"--{name}", value)]
    chief, worker = (f"localhost:{port}" for port in free_ports(2))
    cluster = {"chief": [chief], "worker": [worker]}
    processes = []
    for kind in ("chief", "worker"):
        config = json.dumps({"cluster": cluster, "task": {"type": kind, "index": 0}})
        environ = {**os.environ, "TF_CONFIG": config}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(preloaded.popen(command, cwd=ROOT, env=environ, **pipes))
    try:
        said = [process.communicate(timeout=900)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    one, two = (
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two")
    )
    for a, b in zip(one["epochs"], two["epochs"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-5)
    assert one["test"]["metrics"]["loss"] == pytest.approx(two["test"]["metrics"]["loss"], abs=1e-4)
    lines = (tmp_path / "two" / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 40
