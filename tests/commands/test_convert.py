"""The convert command from end to end, in one process."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.paths import DATA_FILES
from tpu_tlm.convert import main
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.load import load

DATA = DATA_FILES
PRETRAINING = DATA / "hf_golden" / "bert_pretraining"
MEAD = json.loads((DATA / "golden_mead" / "manifest.json").read_text())["variants"]


def convert(*words):
    assert main([str(word) for word in words]) == 0


def test_all_the_way_round(tmp_path, capsys):
    """HuggingFace -> NPZ -> BERT checkpoint -> NPZ -> HuggingFace: the same bits, heads and
    pooler included.
    """
    convert(PRETRAINING, tmp_path / "a.npz")
    convert(tmp_path / "a.npz", tmp_path / "bert", "--to", "bert")
    convert(tmp_path / "bert", tmp_path / "b.npz")
    convert(tmp_path / "b.npz", tmp_path / "hf", "--to", "hf")
    shown = capsys.readouterr().out
    assert shown.count("the same bits") == 4 and "kept with the model: pooler/kernel" in shown
    first, last = load(str(PRETRAINING)), load(str(tmp_path / "hf"))
    assert last.spec == first.spec and set(last.extras) == set(first.extras)
    for path, value in {**first.values, **first.extras}.items():
        np.testing.assert_array_equal({**last.values, **last.extras}[path], value)
    assert (tmp_path / "hf" / "model.safetensors").read_bytes()[-9000:] == (
        PRETRAINING / "model.safetensors"
    ).read_bytes()[-9000:]


def test_the_record_names_every_file(tmp_path):
    convert(PRETRAINING, tmp_path / "hf", "--to", "hf")
    record = json.loads((tmp_path / "hf" / "conversion.json").read_text())
    assert record["source"] == str(PRETRAINING) and set(record["source_files"]) == {
        "config.json",
        "model.safetensors",
    }
    assert set(record["files"]) == {p.name for p in (tmp_path / "hf").iterdir()} - {
        "conversion.json"
    }


@pytest.mark.parametrize(
    "family", ["roberta", "electra_generator", "electra_discriminator", "gpt2"]
)
def test_other_families_keep_their_name(family, tmp_path):
    convert(DATA / "hf_golden" / family, tmp_path / "a.npz")
    convert(tmp_path / "a.npz", tmp_path / "hf", "--to", "hf")
    ours, theirs = (
        json.loads((d / "config.json").read_text())
        for d in (tmp_path / "hf", DATA / "hf_golden" / family)
    )
    assert ours["architectures"] == theirs["architectures"]
    assert load(str(tmp_path / "hf")).spec == load(str(DATA / "hf_golden" / family)).spec


@pytest.mark.parametrize("name", [n for n, v in MEAD.items() if "source" not in v["config"]])
def test_mead_files_with_their_hyper_parameters(name, tmp_path):
    (tmp_path / "mead.json").write_text(
        json.dumps({"kind": MEAD[name]["kind"], "config": MEAD[name]["config"]})
    )
    convert(
        DATA / "golden_mead" / MEAD[name]["checkpoint"],
        tmp_path / "ours.npz",
        "--mead_config",
        tmp_path / "mead.json",
    )
    written, original = (
        np.load(tmp_path / "ours.npz"),
        np.load(DATA / "golden_mead" / MEAD[name]["checkpoint"]),
    )
    kept = {key for key in original.files if key in written.files}
    assert set(original.files) == kept
    for key in kept:
        np.testing.assert_array_equal(written[key], original[key], err_msg=key)


def test_mead_file_with_model_flags(tmp_path):
    source = DATA / "golden_mead" / MEAD["mlm_rpr8"]["checkpoint"]
    with pytest.raises(UsageError, match="--mead_config"):
        main([str(source), str(tmp_path / "a.npz")])
    flags = (
        "--d_model 32 --d_ff 64 --num_heads 4 --num_layers 2 --transformer_type mead --mask_pad "
        "false"
    ).split()
    convert(source, tmp_path / "a.npz", *flags)
    assert load(str(tmp_path / "a.npz")).spec.vocab_size == MEAD["mlm_rpr8"]["config"]["vocab"]


def test_wrong_use_says_what_to_do(tmp_path):
    for words, says in (
        ((PRETRAINING, tmp_path / "out"), "give --to"),
        ((PRETRAINING, tmp_path / "out.npz", "--to", "hf"), "writes a directory"),
        ((PRETRAINING, tmp_path / "a.npz", "--family", "bert"), "--family"),
        ((PRETRAINING, DATA, "--to", "hf"), "not empty"),
        ((tmp_path, tmp_path / "a.npz"), "not a model of a known format"),
        ((tmp_path / "nothing", tmp_path / "a.npz"), "no such file"),
        ((PRETRAINING, tmp_path / "a.npz", "--step", "3"), "--step"),
    ):
        with pytest.raises(UsageError, match=says):
            main([str(word) for word in words])
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="safetensors"):
        main([str(tmp_path), str(tmp_path / "a.npz")])
