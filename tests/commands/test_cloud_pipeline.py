"""Every command on gs://, with a bad network: the bytes are those of the local disk.

TensorFlow reads the shards by its own gs:// (through the TLS way of the gate), everything else goes
through google-cloud-storage. Training is killed at a moment inside a save and continued.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import yaml

from tests import preloaded
from tests.bucket import NAME, Bucket
from tests.paths import ROOT
from tests.tasks.toy_tasks import reviews, toy_model

# Commands one after the other in one process, with TensorFlow or without.
DRIVER = """
    import json, os, signal, sys
    from importlib import import_module
    from tpu_tlm.errors import run_command
    from tpu_tlm.filesystem import cloud_errors, cloud_storage

    def quickly():
        from google.cloud.storage.retry import DEFAULT_RETRY
        return DEFAULT_RETRY.with_delay(initial=0.02, maximum=0.5, multiplier=2.0).with_timeout(60)

    cloud_storage.retry = quickly
    plan = json.loads(sys.argv[1])
    if plan["kill"]:
        from tpu_tlm.checkpoints import manager
        write, left = cloud_storage.CloudStorage.write, [plan["kill"]]
        def dying(self, path, data, version=None):
            if path.endswith("/manifest.json"):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
            return write(self, path, data, version)
        cloud_storage.CloudStorage.write = dying
    for name, *arguments in plan["commands"]:
        code = run_command(import_module(f"tpu_tlm.{name}").main, arguments)
        if code:
            raise SystemExit(code)
    imported = "tensorflow" in sys.modules
    if imported != plan["tensorflow"]:
        raise SystemExit(f"TensorFlow was {'' if imported else 'not '}imported")
"""
MODEL = [
    *"--d_model 32 --d_ff 64 --num_heads 2 --num_layers 1 --rpr_k 0".split(),
    *"--embed_type learned-positional --embeddings_reduction sum-layer-norm".split(),
    *"--transformer_type post-layer-norm".split(),
]


def _commands(base: str, source: str, work: str) -> dict[str, list[list[str]]]:
    words = f"--input_files {source} --subword_type wordpiece --cased false".split()
    vocab = [*words, *f"--vocab_size 90 --output {base}/vocab --workers 1".split()]
    data = [
        *words,
        *f"--vocab {base}/vocab/vocab.txt --output {base}/data --seq_length 16 --workers 1".split(),
        *f"--valid_fraction 0.1 --work_dir {work}".split(),
    ]
    run = [
        *f"--train_dir {base}/data/train --valid_dir {base}/data/valid".split(),
        *("--run_dir", f"{base}/run"),
        *"--batch_size 8 --steps 12 --save_steps 3 --steps_per_call 3 --distribute none".split(),
        *"--tensorboard true --export_npz true".split(),
        *MODEL,
    ]
    return {
        "text": [["vocab", *vocab], ["preprocess", *data]],
        "train": [["train", *run]],
        "export": [
            ["convert", f"{base}/run", f"{base}/out.npz"],
            ["convert", f"{base}/run", f"{base}/hf", *"--to hf --family bert".split()],
            ["predict", "fill-mask", "--model", f"{base}/out.npz", "--text", "one [MASK] three"],
            ["evaluate", "--model", f"{base}/run", "--data", f"{base}/data/valid"],
        ],
    }


def _drive(
    commands: list[list[str]], environ: dict[str, str], *, tensorflow: bool, kill: int = 0
) -> subprocess.CompletedProcess[str]:
    plan = json.dumps({"commands": commands, "tensorflow": tensorflow, "kill": kill})
    start = preloaded.run if tensorflow else subprocess.run
    return start(
        [sys.executable, "-c", textwrap.dedent(DRIVER), plan],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=600,
    )


def _done(*arguments: Any, **options: Any) -> str:
    result = _drive(*arguments, **options)
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-1000:]
    return result.stdout


def _corpus() -> bytes:
    numbers = "one two three four five six seven eight nine ten eleven twelve".split()
    lines = [
        " ".join(numbers[(i + j) % 12] for j in range(i % 7 + 3)) + ("\n" * (i % 5 == 0))
        for i in range(600)
    ]
    return "\n".join(lines).encode()


def _content(key: str, data: bytes) -> Any:
    """What must be equal: of md.yml all but the names and times of the input files."""
    if not key.endswith("md.yml"):
        return data
    own = ("made_from", "input_changed")
    return {name: value for name, value in yaml.safe_load(data).items() if name not in own}


def test_from_text_to_an_export(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_bytes(_corpus())
    local = _commands(str(tmp_path), f"{tmp_path}/text", f"{tmp_path}/work-local")
    _done(local["text"], {}, tensorflow=False)
    _done([*local["train"], *local["export"]], {}, tensorflow=True)
    with Bucket(seed=1, tensorflow=True) as bucket:
        where = f"/upload/storage/v1/b/{NAME}/o?uploadType=media&name=text/a.txt"
        status, _, told = bucket.ask("POST", where, _corpus())
        assert status == 200, told
        for action in (503, "reset", "cut", ("slow", 0.05)):
            bucket.fail(action=action, chance=0.03)
        bucket.fail("POST|PUT|PATCH|DELETE", action="lost", chance=0.05)
        remote = _commands(f"gs://{NAME}", f"gs://{NAME}/text", f"{tmp_path}/work")
        _done(remote["text"], bucket.environ, tensorflow=False)
        killed = _drive(remote["train"], bucket.environ, tensorflow=True, kill=3)
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
        said = _done([*remote["train"], *remote["export"]], bucket.environ, tensorflow=True)
        assert "continuing at step 6" in said
        assert sum(action is not None for *_, action in bucket.calls) > 20
        found = bucket.objects()
    different = []
    for name in ("vocab", "data", "run/checkpoints", "run/tokenizer", "hf"):
        for path in (tmp_path / name).rglob("*"):
            key = str(path.relative_to(tmp_path))
            if path.is_file() and _content(key, path.read_bytes()) != _content(key, found[key]):
                different.append(key)
    assert different == ["hf/conversion.json"], "which names its source"
    assert found.keys() >= {f"run/npz/checkpoint-step-{step}.npz" for step in (3, 6, 9, 12)}
    assert not any(key.startswith("run/lock") for key in found), "the lock was given back"
    assert any("tfevents" in key for key in found)


def test_a_refusal_midway_is_one_line_and_leaves_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_bytes(_corpus())
    with Bucket() as bucket:
        commands = _commands("gs://bucket", f"{tmp_path}/text", f"{tmp_path}/work")
        _done(commands["text"][:1], bucket.environ, tensorflow=False)
        bucket.fail("POST|PUT", r"/upload/.*", 403, skip=1)
        ended = _drive(commands["text"][1:], bucket.environ, tensorflow=False)
        assert ended.returncode == 2 and "Traceback" not in ended.stderr
        line = ended.stderr.strip().splitlines()[-1]
        assert "gs://bucket/" in line and "permission" in line
        assert not any(key.endswith("md.yml") for key in bucket.objects())
        bucket.faults.clear()
        _done(commands["text"][1:], bucket.environ, tensorflow=False)


def _put(bucket: Bucket, directory: Path, place: str) -> None:
    """Every file below a directory as an object."""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            name = quote(f"{place}/{path.relative_to(directory)}", safe="")
            where = f"/upload/storage/v1/b/{NAME}/o?uploadType=media&name={name}"
            assert bucket.ask("POST", where, path.read_bytes())[0] == 200


def test_fine_tuning_embedding_and_conversion(tmp_path: Path) -> None:
    """Models, labelled texts, run directories and vectors on gs://, none by TensorFlow's own."""
    (tmp_path / "in").mkdir()
    layers = {"embeddings_reduction": "sum-layer-norm", "transformer_type": "post-layer-norm"}
    toy_model(tmp_path / "in", activation="gelu", **layers)
    reviews(tmp_path / "in" / "train.csv", 48)
    reviews(tmp_path / "in" / "valid.csv", 24, seed=1)

    def commands(base: str) -> list[list[str]]:
        given, tuned = f"{base}/in", f"{base}/tuned"
        fit = "--epochs 1 --batch_size 8 --lr 1e-2 --buckets 1 --distribute none".split()
        data = [f"--train={given}/train.csv", f"--valid={given}/valid.csv"]
        source = ["--input", f"{given}/valid.csv", "--text", "text"]
        return [
            ["convert", f"{given}/model.npz", f"{base}/hf", *"--to hf --family bert".split()],
            ["finetune", *"--task classify --model".split(), f"{given}/model.npz", *data, *fit]
            + ["--run_dir", tuned, "--tokenizer", f"{given}/tokenizer"],
            ["embed", "--model", tuned, *source, "--output", f"{base}/vectors.npy"],
            ["convert", tuned, f"{base}/tuned.npz"],
        ]

    _done(commands(str(tmp_path)), {}, tensorflow=True)
    with Bucket(seed=4) as bucket:
        _put(bucket, tmp_path / "in", "in")
        for action in (503, "reset"):
            bucket.fail(action=action, chance=0.02)
        _done(commands(f"gs://{NAME}"), bucket.environ, tensorflow=True)
        found = bucket.objects()
        # A refusal midway is one line.
        bucket.faults.clear()
        bucket.fail("POST|PUT", r"/upload/.*", 403, skip=1)
        for command in (commands(f"gs://{NAME}/again")[0], commands(f"gs://{NAME}/again")[1]):
            again = [word.replace("/again/in", "/in") for word in command]
            ended = _drive([again], bucket.environ, tensorflow=True)
            line = ended.stderr.strip().splitlines()[-1]
            assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr
            assert line.startswith("error: ") and f"gs://{NAME}/again" in line
            assert "permission" in line
    with np.load(io.BytesIO(found["tuned.npz"])) as here, np.load(tmp_path / "tuned.npz") as there:
        arrays = [name for name in there if there[name].dtype.kind == "f"]
        assert len(arrays) > 20 and sorted(here) == sorted(there)
        assert all(np.array_equal(here[name], there[name]) for name in arrays)
    for name in ("hf/model.safetensors", "vectors.npy"):
        assert found[name] == (tmp_path / name).read_bytes(), name
    for line in ("predictions.jsonl", "report.html", "report.json"):
        assert f"tuned/{line}" in found
    loaded = np.load(io.BytesIO(found["vectors.npy"]))
    assert loaded.shape == (24, 32) and np.isfinite(loaded).all()
