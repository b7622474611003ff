"""Damaged and hostile files from the field, each given to its own command: one line, right code.

The files lie in ../shared/field next to the project; without them the tests are skipped.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.command_modules import convert, preprocess, train
from tests.paths import ROOT
from tpu_tlm.errors import run_command

FIELD = ROOT.parent / "shared" / "field"
TRAIN = ["--batch_size", "8", "--d_model", "16", "--d_ff", "16", "--num_heads", "2"]
TRAIN += ["--num_layers", "1", "--rpr_k", "0", "--steps", "1", "--basedir", "OUT/b"]
CONVERT = ["convert", ".", "OUT/x.npz"]
ON_DATA = ["train", "--train_dir", ".", *TRAIN]
ON_CONFIG = ["train", "--config", "c.yaml", "--train_dir", "nowhere", "--basedir", "OUT/b"]
ON_TF_CONFIG = ["train", "--train_dir", "x", "--basedir", "OUT/y", "--start_timeout", "3"]

# Folder -> command, exit code, words of the one line.
CASES: dict[str, tuple[list[str], int, tuple[str, ...]]] = {
    "bert-cut": (CONVERT, 1, ("bert_model.ckpt", "cut off")),
    "hf-config-hidden_act": (CONVERT, 2, ("config.json", "hidden_act")),
    "hf-config-layer_norm_eps": (CONVERT, 2, ("config.json", "layer_norm_eps")),
    "hf-config-type_vocab_size": (CONVERT, 2, ("config.json", "type_vocab_size")),
    "hf-config-vocab_size": (CONVERT, 2, ("config.json", "vocab_size")),
    "hf-index-outside": (CONVERT, 2, ("model.safetensors.index.json", "/dev/zero")),
    "hf-tokenizer-model": (CONVERT, 1, ("tokenizer.json", "Model")),
    "hf-tokenizer-normalizer": (CONVERT, 1, ("tokenizer.json", "Normalizer")),
    "hf-tokenizer-vocab": (CONVERT, 1, ("tokenizer.json", "u32")),
    "md-bomb": (ON_DATA, 2, ("md.yml", "alias")),
    "md-eol": (ON_DATA, 2, ("md.yml", "tok_on_eol")),
    "md-nctx": (ON_DATA, 2, ("md.yml", "nctx")),
    "md-piece": (ON_DATA, 2, ("md.yml", "piece_samples")),
    "md-prefix": (ON_DATA, 2, ("md.yml", "prefix")),
    "mead-y-longer": (
        [*ON_DATA, "--subword_type", "wordpiece", "--vocab", "vocab.txt"],
        2,
        ("--objective mlm", "y of 20", "x of 16"),
    ),
    "npz-carried": (["convert", "model.npz", "OUT/out", "--to", "hf"], 2, ("model.npz", "evil.sh")),
    "safetensors-deep": (CONVERT, 1, ("model.safetensors",)),
    "safetensors-dtype-list": (CONVERT, 1, ("model.safetensors", "dtype")),
    "safetensors-offsets": (CONVERT, 1, ("model.safetensors", "[0]")),
    "safetensors-shape-2e64": (CONVERT, 1, ("model.safetensors", "shape")),
    "safetensors-shape-str": (CONVERT, 1, ("model.safetensors", "shape")),
    "tfconfig-digit": (ON_TF_CONFIG, 2, ("TF_CONFIG",)),
    "tfconfig-port": (ON_TF_CONFIG, 2, ("TF_CONFIG", "99999")),
    "yaml-bomb": (ON_CONFIG, 2, ("c.yaml", "alias")),
    "yaml-deep": (ON_CONFIG, 2, ("c.yaml",)),
    "yaml-inf": (ON_CONFIG, 2, ("c.yaml",)),
    "yaml-not-utf8": (ON_CONFIG, 2, ("c.yaml", "UTF-8")),
    "yaml-nul": (ON_CONFIG, 2, ("c.yaml",)),
    "yaml-utf16": (ON_CONFIG, 2, ("c.yaml", "UTF-8")),
}
COMMANDS = {"convert": convert, "preprocess": preprocess, "train": train}
# Tested elsewhere: messages to the workers' port in tests/distributed/test_attacks.py, TensorFlow's
# own port (a closed network, SECURITY.md) in tests/manifests, a full disk in test_full_disk.py, two
# writers of one dataset in tests/data/preprocessing/test_field_inputs.py; the last one below.
ELSEWHERE = {"team-deep", "team-drip", "team-failed0", "tf-port", "disk-full", "preprocess-two"}
ELSEWHERE |= {"jsonl-deep"}


def _copied(name: str, tmp_path: Path) -> Path:
    folder = FIELD / f"rel-{name}"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return Path(shutil.copytree(folder, tmp_path / "work"))


def test_every_folder_has_a_test():
    if not FIELD.is_dir():
        pytest.skip(f"{FIELD} is not here")
    names = {path.name.removeprefix("rel-") for path in FIELD.glob("rel-*")}
    assert names == {*CASES, *ELSEWHERE}


@pytest.mark.parametrize("name", CASES)
def test_a_folder_is_refused_in_one_line(name, tmp_path, monkeypatch, capsys):
    work = _copied(name, tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    before = sorted(path for path in tmp_path.rglob("*"))
    monkeypatch.chdir(work)
    if (work / "TF_CONFIG").exists():
        monkeypatch.setenv("TF_CONFIG", (work / "TF_CONFIG").read_text())
    command, code, words = CASES[name]
    argv = [word.replace("OUT", str(out)) for word in command[1:]]
    assert run_command(COMMANDS[command[0]].main, argv) == code
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in said and len(errors[0]) < 1000, said
    for word in words:
        assert word in errors[0]
    # A run directory may have been begun; nothing may be written anywhere else.
    after = {path for path in tmp_path.rglob("*") if out not in path.parents}
    assert after == set(before)
    assert not (out / "x.npz").exists() and not (out / "out").exists()


def test_one_deep_line_among_good_ones_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(_copied("jsonl-deep", tmp_path))
    argv = ["--input_files", "a.jsonl", "--subword_type", "wordpiece", "--vocab", "vocab.txt"]
    argv += ["--nctx", "16", "--output", str(tmp_path / "out"), "--workers", "1"]
    assert run_command(preprocess.main, argv) == 0
    said = "".join(capsys.readouterr())
    assert "a.jsonl" in said and "Traceback" not in said
    assert (tmp_path / "out" / "md.yml").exists()
