"""Real files of every kind, made by the package's own commands or kept beside the tests."""

from __future__ import annotations

import gzip
import importlib
import json
import shutil
import tarfile
from pathlib import Path

from tests.campaign.forked import Limits, run
from tests.paths import DATA_FILES, ROOT
from tests.toy import SIZES, toy_dataset

OLD = ROOT / "tests" / "first_edition" / "files"
RUN = [*SIZES, "--batch_size", 8, "--warmup_steps", 1, "--lr", "1e-2", "--distribute", "none"]
RUN += ["--xla", "false", "--tensorboard", "false", "--report", "false", "--steps_per_call", 1]

# The hyper-parameters of the golden file that is the MEAD checkpoint here.
MEAD = {"d_model": 32, "d_ff": 64, "num_heads": 4, "layers": 2, "embed_type": "default"}
MEAD |= {"tie": True, "layer_norm_eps": 1e-12, "features": ["x"], "rpr_k": 8}


def command(name: str):
    """The `main` of a command."""
    return importlib.import_module(f"tpu_tlm.{name}").main


def make(base: Path) -> dict[str, Path]:
    """Write them below `base`; returns their places by name."""
    places = {
        "data": base / "data",
        "valid": base / "valid",
        "run": base / "run",
        "hf": base / "hf",
        "hf_index": base / "hf_index",
        "roberta": base / "roberta",
        "bert": base / "bert",
        "saved_model": base / "saved_model",
        "text": base / "text",
        "npz": base / "npz",
        "mead_npz": base / "mead_npz",
        "mead_data": base / "mead_data",
        "rows": base / "rows",
    }

    def write(argv: list[str]) -> int:
        toy_dataset(places["data"])
        toy_dataset(places["valid"], examples=21, shards=1, seed=1)
        return 0

    _must(run(write, [], base / "said" / "data"))
    flags = ["--train_dir", places["data"], "--run_dir", places["run"], *RUN]
    flags += ["--steps", 6, "--save_steps", 2, "--export_npz", "true"]
    _must(run(command("train"), flags, base / "said" / "run", limits=Limits(300)))
    exports = OLD / "exports"
    for name, source in (("hf", "bert"), ("roberta", "roberta"), ("bert", "bert_checkpoint")):
        shutil.copytree(exports / source, places[name])
    _index(places["hf"], places["hf_index"])
    with tarfile.open(exports / "saved_model.tar.xz") as archive:
        archive.extractall(places["saved_model"], filter="data")
    inside = list(places["saved_model"].iterdir())
    if len(inside) == 1 and inside[0].is_dir():
        places["saved_model"] = inside[0]
    shutil.copytree(OLD / "text", places["text"])
    for name in ("codes", "vocab"):
        shutil.copy(OLD / "vocab" / "bpe" / name, places["text"] / f"bpe.{name}")
    shutil.copy(OLD / "vocab" / "wordpiece" / "vocab.txt", places["text"] / "vocab.txt")
    (places["text"] / "docs.jsonl").write_text(
        "".join(json.dumps({"text": f"some words {i}", "id": i}) + "\n" for i in range(40))
    )
    text = (places["text"] / "train.txt").read_bytes()
    (places["text"] / "train.txt.gz").write_bytes(gzip.compress(text))
    places["npz"].mkdir()
    shutil.copy(sorted((places["run"] / "npz").glob("*.npz"))[-1], places["npz"] / "model.npz")
    places["mead_npz"].mkdir()
    shutil.copy(DATA_FILES / "golden_mead" / "mlm_rpr8.npz", places["mead_npz"] / "model.npz")
    (places["mead_npz"] / "mead.json").write_text(json.dumps(MEAD))
    _mead_data(places["mead_data"], places["text"] / "vocab.txt")
    places["rows"].mkdir()
    rows = "label\ttext\n"
    rows += "".join(f"{'good' if i % 2 else 'bad'}\tw{i} w{i + 1} w{i + 2}\n" for i in range(32))
    for name in ("train.tsv", "valid.tsv"):
        (places["rows"] / name).write_text(rows)
    return places


def _index(source: Path, target: Path) -> None:
    """The same model in two files with an index."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(source, target)
    whole = target / "model.safetensors"
    arrays = load_file(whole)
    whole.unlink()
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(arrays)}
    for file in set(places.values()):
        own = {name: array for name, array in arrays.items() if places[name] == file}
        save_file(own, target / file, {"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))


def _must(outcome) -> None:
    if outcome.code != 0:
        raise RuntimeError(outcome.out + outcome.err)


def _mead_data(directory: Path, vocab: Path) -> None:
    """A dataset as MEAD writes it: tf.train.Examples of x and y, md.yml with their number."""
    import tensorflow as tf

    from tests.campaign.containers import tfrecord

    directory.mkdir()
    payloads = []
    for i in range(40):
        example = tf.train.Example()
        for name in ("x", "y"):
            ids = [5 + (i + j) % 20 for j in range(16)]
            example.features.feature[name].int64_list.value.extend(ids)
        payloads.append(example.SerializeToString())
    (directory / "train-1.tfrecord").write_bytes(tfrecord(payloads))
    (directory / "md.yml").write_text("num_samples: 40\n")
    shutil.copy(vocab, directory / "vocab.txt")
