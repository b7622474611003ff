"""What the fuzzer changes: a file of each kind, and the command that reads it."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.campaign import containers, mutate
from tests.campaign.seeds import RUN

TF_CONFIG = json.dumps(
    {
        "cluster": {"chief": ["127.0.0.1:21999"], "worker": ["127.0.0.1:21998"]},
        "task": {"type": "chief", "index": 0},
        "environment": "cloud",
    }
).encode()


@dataclass(frozen=True)
class Target:
    """A file of a kind, and the command that reads it.

    seed: name of the place (`seeds.make`) that is copied to the working directory; file: what is
    changed there, an environment variable or standard input; share: of a thousand inputs; line: the
    command line, in which WORK, OUT and the names of places are replaced; reseal: makes checksums
    right again, for some of the inputs; says: what the command says of the unchanged file, where
    that is not taken.
    """

    name: str
    seed: str
    file: str
    change: mutate.Mutator
    share: int
    line: str
    reseal: Callable[[Path], None] | None = None
    says: str = ""


def reseal_yaml(path: Path) -> None:
    """Give a YAML file its checksum again, as somebody who changed both would."""
    from tpu_tlm.filesystem.sealed import sealed

    lines = [line for line in path.read_bytes().splitlines(keepends=True) if line[:1] != b"#"]
    body = b"".join(lines)
    path.write_bytes(sealed(body if body.endswith(b"\n") else body + b"\n"))


def reseal_shard(path: Path) -> None:
    """Write the shard's size and checksum into md.yml."""
    metadata = path.parent / "md.yml"
    values = yaml.safe_load(metadata.read_bytes())
    raw = path.read_bytes()
    for shard in values.get("shards", []):
        if shard["name"] == path.name:
            shard |= {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
            shard.pop("sums", None)
    metadata.write_text(yaml.safe_dump(values, sort_keys=False))


def reseal_manifest(path: Path) -> None:
    """Write the file's size and checksum into the checkpoint's manifest."""
    manifest = path.parent / "manifest.json"
    values = json.loads(manifest.read_bytes())
    raw = path.read_bytes()
    values["files"][path.name] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    manifest.write_text(json.dumps(values))


def gzip_file(raw: bytes, chance: mutate.Chance) -> bytes:
    """Compressed text: damaged, of odd text, or 50 MB of zeros."""
    if chance.random() < 0.1:
        return gzip.compress(bytes(50_000_000))
    if chance.random() < 0.5:
        return gzip.compress(mutate.text(gzip.decompress(raw), chance))
    return mutate.damaged(raw, chance)


_CONVERT = "convert WORK OUT/x.npz"
_NPZ = "convert WORK/model.npz OUT/x.npz"
_RUN = " ".join(map(str, RUN))
_TRAIN = f"{_RUN} --steps 2 --run_dir OUT/r"
_WORDPIECE = "--subword_type wordpiece --vocab WORK/vocab.txt"
_BPE = "--subword_type bpe --codes WORK/bpe.codes --vocab WORK/bpe.vocab"
_PREPROCESS = "preprocess --seq_length 16 --output OUT/d --workers 1"
_TEXT = f"{_PREPROCESS} --input_files WORK/train.txt"
_FILL = "predict fill-mask --model WORK --text 'the [MASK] of'"
_LAST = "checkpoints/step-00000006"
_REPORT = "report WORK --output OUT/x.html"

_json, _yaml, _text, _bytes = mutate.json_file, mutate.yaml_file, mutate.text, mutate.damaged
_records, _npz = containers.tfrecord_file, containers.npz

TARGETS: tuple[Target, ...] = (
    Target(
        "YAML: --config", "run", "config.yaml", _yaml, 90,
        "train --config WORK/config.yaml --train_dir nowhere --run_dir OUT/r",
        reseal_yaml, "nowhere",
    ),
    Target(
        "YAML: --config, trained", "run", "config.yaml", _yaml, 25,
        "train --config WORK/config.yaml --run_dir OUT/r --steps 2", reseal_yaml,
    ),
    Target("YAML: of a run", "run", "config.yaml", _yaml, 25, _REPORT, reseal_yaml),
    Target("YAML: md.yml", "data", "md.yml", _yaml, 90, "read WORK", reseal_yaml),
    Target(
        "YAML: md.yml, trained", "data", "md.yml", _yaml, 15,
        f"train --train_dir WORK {_TRAIN}", reseal_yaml,
    ),
    Target("YAML: md.yml of MEAD", "mead_data", "md.yml", _yaml, 15, f"read WORK {_WORDPIECE}"),
    Target("TFRecord: shard", "data", "SHARD", _records, 60, "read WORK", reseal_shard),
    Target(
        "TFRecord: MEAD's", "mead_data", "train-1.tfrecord", _records, 50,
        f"read WORK {_WORDPIECE}",
    ),
    Target(
        "TFRecord: trained", "mead_data", "train-1.tfrecord", _records, 15,
        f"train --train_dir WORK {_WORDPIECE} {_TRAIN}",
    ),
    Target("JSON: manifest", "run", f"{_LAST}/manifest.json", _json, 30, _CONVERT),
    Target(
        "checkpoint: index", "run", f"{_LAST}/variables.index", _bytes, 25, _CONVERT,
        reseal_manifest,
    ),
    Target(
        "JSON: identity of a run", "run", "identity.json", _json, 15,
        "train --config WORK/config.yaml --run_dir WORK",
    ),
    Target("JSON: HuggingFace config", "hf", "config.json", _json, 80, _CONVERT),
    Target("JSON: RoBERTa config", "roberta", "config.json", _json, 30, _CONVERT),
    Target("JSON: index", "hf_index", "model.safetensors.index.json", _json, 30, _CONVERT),
    Target("JSON: tokenizer.json", "hf", "tokenizer.json", _json, 60, _FILL),
    Target("JSON: tokenizer_config.json", "hf", "tokenizer_config.json", _json, 30, _FILL),
    Target("safetensors", "hf", "model.safetensors", containers.safetensors, 80, _CONVERT),
    Target("NPZ: ours", "npz", "model.npz", _npz, 60, _NPZ),
    Target(
        "NPZ: to a directory", "npz", "model.npz", _npz, 20,
        "convert WORK/model.npz OUT/x --to savedmodel",
    ),
    Target(
        "NPZ: MEAD's", "mead_npz", "model.npz", _npz, 25,
        f"{_NPZ} --mead_config WORK/mead.json",
    ),
    Target(
        "JSON: MEAD's configuration", "mead_npz", "mead.json", _json, 15,
        f"{_NPZ} --mead_config WORK/mead.json",
    ),
    Target("BERT checkpoint: index", "bert", "bert_model.ckpt.index", _bytes, 15, _CONVERT),
    Target("BERT checkpoint: config", "bert", "bert_config.json", _json, 15, _CONVERT),
    Target("SavedModel: graph", "saved_model", "saved_model.pb", _bytes, 10, _CONVERT),
    Target("tokenizer: vocab.txt", "text", "vocab.txt", _text, 35, f"{_TEXT} {_WORDPIECE}"),
    Target("tokenizer: codes", "text", "bpe.codes", _text, 25, f"{_TEXT} {_BPE}"),
    Target("tokenizer: BPE vocabulary", "text", "bpe.vocab", _text, 20, f"{_TEXT} {_BPE}"),
    Target("tokenizer: of a run", "run", "tokenizer/vocab.txt", _text, 15, _FILL),
    Target("text", "text", "train.txt", _text, 40, f"{_TEXT} {_WORDPIECE}"),
    Target(
        "text: pairs", "text", "train.tsv", _text, 20,
        f"{_PREPROCESS} --pairs tsv --input_files WORK/train.tsv {_WORDPIECE}",
    ),
    Target(
        "text: JSON lines", "text", "docs.jsonl", _text, 20,
        f"{_PREPROCESS} --input_files WORK/docs.jsonl {_WORDPIECE}",
    ),
    Target(
        "text: gzip", "text", "train.txt.gz", gzip_file, 20,
        f"{_PREPROCESS} --input_files WORK/train.txt.gz {_WORDPIECE}",
    ),
    Target(
        "text: learned from", "text", "train.txt", _text, 15,
        "vocab --input_files WORK/train.txt --subword_type wordpiece --vocab_size 60"
        " --output OUT/v",
    ),
    Target("text: predicted", "run", "STDIN", _text, 15, "predict fill-mask --model WORK"),
    Target(
        "text: labelled rows", "rows", "train.tsv", _text, 15,
        "finetune --train WORK/train.tsv --valid WORK/valid.tsv --model run --epochs 1"
        " --batch_size 8 --run_dir OUT/f --xla false",
    ),
    Target(
        "TF_CONFIG", "data", "TF_CONFIG", _json, 60,
        f"train --train_dir WORK --start_timeout 2 {_TRAIN} --distribute auto",
        says="did not come",
    ),
    Target("JSON: metrics.jsonl", "run", "metrics.jsonl", _text, 15, _REPORT),
)  # fmt: skip
