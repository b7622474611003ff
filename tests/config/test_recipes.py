"""Every recipe's commands train one step at toy size; HuggingFace's files can be written of it."""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path

import pytest

from tests.paths import ROOT
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


def _commands(path: Path) -> dict[str, list[str]]:
    """Command -> its arguments, as the head of a recipe gives them."""
    head = path.read_text(encoding="utf-8").partition("# Commands:")[2].partition("# Hardware:")[0]
    lines = re.sub(r"\\\n# +", "", head).split("\n")
    found = [shlex.split(line.lstrip("# ")) for line in lines if line.strip("# ")]
    assert [words[:2] for words in found] == [
        ["tpu-tlm", name] for name in ("vocab", "preprocess", "train")
    ]
    return {words[1]: words[2:] for words in found}


def _text(directory: Path, *, pairs: bool) -> None:
    """Documents of some sentences, or rows of a turn and its answer."""
    directory.mkdir()
    draw = random.Random(0)
    words = "the old River runs Past a small house and Nobody in it sleeps for long".split()
    texts = [" ".join(draw.choices(words, k=12)) for _ in range(120)]
    ends = "\t", "\n" if pairs else "\n\n"
    lines = [text + ends[index % 2 if pairs else 1] for index, text in enumerate(texts)]
    (directory / "a.txt").write_text("".join(lines))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_trains_a_step(path, tmp_path, capsys, monkeypatch):
    from tests.command_modules import convert, preprocess, train, vocab

    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    commands = _commands(path)
    corpus = commands["vocab"][commands["vocab"].index("--input_files") + 1]
    given = Config.from_yaml(path).as_dict()
    _text(tmp_path / corpus, pairs=given["objective"] == "dual-encoder")
    assert vocab.main([*commands["vocab"], "--vocab_size", "300", "--workers", "1"]) == 0
    words = commands["preprocess"]
    words[words.index("--valid_fraction") + 1] = "0.2"
    if "--seq_length" in words:
        words[words.index("--seq_length") + 1] = "16"
    else:
        words += ["--seq_length", "16"]
    assert preprocess.main([*words, "--workers", "1"]) == 0
    small = {n: v for n, v in SMALL.items() if n in PRESETS[path.stem].values or n == "grad_accum"}
    small = {name: value for name, value in small.items() if given[name] not in (None, [0])}
    toys = [word for n, v in {**TOY, **small}.items() for word in (f"--{n}", str(v))]
    assert train.main([*commands["train"], *toys]) == 0
    run = Path(commands["train"][-1])
    assert Config.from_yaml(run / "config.yaml").run.preset == path.stem
    if path.stem not in FAMILY:
        return
    capsys.readouterr()
    family = FAMILY[path.stem]
    assert convert.main([str(run), str(tmp_path / "hf"), "--to", "hf", "--family", family]) == 0
    notes = capsys.readouterr().out
    assert "added" not in notes and "written as an encoder" not in notes, notes
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == family
