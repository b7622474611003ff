"""Every recipe trains one step at toy size, and its model can be written for HuggingFace."""

from __future__ import annotations

import json
import re

import pytest

from tests.paths import ROOT
from tests.toy import toy_dataset, toy_pairs
from tpu_tlm.config import Config
from tpu_tlm.config.presets import PRESETS

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
TOY = {"d_model": 16, "d_ff": 32, "num_heads": 2, "num_layers": 1, "batch_size": 8, "steps": 1}
TOY |= {
    "warmup_steps": 0,
    "save_steps": 1,
    "tensorboard": False,
    "precision": "float32",
    "xla": False,
}
# Further sizes that a preset sets.
SMALL = {
    "embedding_size": 8,
    "gen_d_model": 8,
    "gen_d_ff": 16,
    "gen_num_heads": 1,
    "num_decoder_layers": 1,
    "d_k": 8,
    "rpr_k": 4,
    "d_out": 16,
    "reduction_d_k": 8,
    "stacking_layers": 16,
    "grad_accum": 1,
}
# The model families that transformers has, by preset.
FAMILY = {
    "bert-base": "bert",
    "bert-large": "bert",
    "bert-small": "bert",
    "roberta-base": "roberta",
    "electra-small": "electra",
    "gpt2": "gpt2",
}


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} <= set(PRESETS) and len(RECIPES) >= 8


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_says_what_it_needs(path):
    head = path.read_text(encoding="utf-8").partition("\n\npreset")[0]
    for word in ("Commands", "Hardware", "Hours", "Tokens", "Loss", "Rests on"):
        assert re.search(rf"^# {word}: +\S", head, re.M), word
    assert f"--config recipes/{path.name}" in head
    config = Config.from_yaml(path)
    tokens = re.search(r"([\d,]+) steps of (\d+) ", head)
    assert int(tokens[1].replace(",", "")) == config.run.steps
    assert int(tokens[2]) == config.data.batch_size


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_trains_a_step(path, tmp_path, capsys):
    from tests.command_modules import convert, train

    data, run = tmp_path / "data", tmp_path / "run"
    preset = Config.from_yaml(path)
    (toy_pairs if preset.run.objective == "dual-encoder" else toy_dataset)(data, examples=16)
    given = preset.as_dict()
    small = {n: v for n, v in SMALL.items() if n in PRESETS[path.stem].values or n == "grad_accum"}
    small = {name: value for name, value in small.items() if given[name] not in (None, [0])}
    argv = ["--config", str(path), "--train_dir", str(data), "--run_dir", str(run)]
    argv += [word for n, v in {**TOY, **small}.items() for word in (f"--{n}", str(v))]
    assert train.main(argv) == 0
    assert Config.from_yaml(run / "config.yaml").run.preset == path.stem
    if path.stem not in FAMILY:
        return
    capsys.readouterr()
    family = FAMILY[path.stem]
    assert convert.main([str(run), str(tmp_path / "hf"), "--to", "hf", "--family", family]) == 0
    notes = capsys.readouterr().out
    assert "added" not in notes and "written as an encoder" not in notes, notes
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == family
