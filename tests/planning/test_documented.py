"""The training commands of the documentation: what `plan` and `convert` do with their models."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.test_docs import RECIPES, documented, words_of
from tpu_tlm.config import Config, cli
from tpu_tlm.config.command_table import COMMANDS
from tpu_tlm.config.presets import PRESETS
from tpu_tlm.formats.electra_parts import part_of
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.formats.save import save
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import build_model
from tpu_tlm.planning.lower import faults, trace
from tpu_tlm.planning.stand_in import batch_specs, fitting
from tpu_tlm.training.setup import experiment_of

# Presets whose models configuration.md says can be written for HuggingFace.
EXPORTED = ("bert-", "roberta-", "electra-", "modernbert-", "gpt2")


def _small(values: dict[str, object]) -> Config:
    """The same kind of model, small: layers differ as they did."""
    sizes: dict[str, object] = {"d_model": 32, "d_ff": 64, "num_heads": 2, "d_k": None}
    sizes |= {"num_layers": 2, "batch_size": 8, "grad_accum": 1, "rpr_k": values["rpr_k"][:2]}
    sizes |= {"max_positions": 16 if values["max_positions"] else None, "steps": 100}
    sizes |= {"warmup_steps": None, "stacking_layers": [], "d_out": 16, "init_from": None}
    sizes |= {"num_decoder_layers": 2 if values["num_decoder_layers"] else None}
    sizes |= {"embedding_size": 16 if values["embedding_size"] else None}
    sizes |= {name: None for name in ("gen_d_model", "gen_d_ff", "gen_num_heads", "preset")}
    sizes |= {"precision": "bfloat16", "scale_examples": 100}
    known = set(Config().as_dict())
    small = {**values, **{name: value for name, value in sizes.items() if name in known}}
    return Config(*cli.build(Config.groups(), small, "", check_required=False))


def _trained() -> Iterator[tuple[str, dict[str, object]]]:
    """Place and options of every training command and every recipe."""
    for recipe in RECIPES:
        yield recipe, Config.from_yaml(ROOT / recipe).as_dict()
    for where, name, rest in documented():
        words = words_of(rest)
        if name not in ("train", "plan") or not words or "..." in words or "--config" in words:
            continue
        if ".py:" in rest:
            continue  # An objective of the reader's own.
        parts = cli.parse(f"tpu_tlm.{name}", "", COMMANDS[name].groups, words, check_required=False)
        yield where, Config(*parts[-len(Config.groups()) :]).as_dict()


@functools.cache
def _models() -> dict[str, Config]:
    """One small configuration per kind of model that the pages train: where it stands first."""
    found: dict[tuple[str, ...], tuple[str, Config]] = {}
    for where, values in _trained():
        config = _small(values)
        key = (str(config.run.objective), repr(config.model), repr(config.objectives))
        found.setdefault(key, (f"{where} {config.run.objective}", config))
    return dict(found.values())


@pytest.mark.parametrize("where", _models())
def test_a_tpu_can_run_the_step(where: str) -> None:
    config = _models()[where]
    corpora = fitting(config, 200, 16, None)
    step = experiment_of(config, corpora, 100, "bfloat16").step
    assert faults(trace(step, batch_specs(corpora.train, 8))[2]) == []


def test_the_pages_train_several_kinds_of_models() -> None:
    told = " ".join(_models())
    assert len(_models()) > 5
    for objective in ("mlm", "clm", "dual-encoder", "seq2seq", "electra"):
        assert f" {objective}" in told, objective


@pytest.mark.parametrize("preset", [n for n in PRESETS if n.startswith(EXPORTED)])
def test_a_preset_is_written_for_huggingface(preset: str, tmp_path: Path) -> None:
    config = _small(Config.preset(preset).as_dict())
    corpora = fitting(config, 200, 16, None)
    spec = experiment_of(config, corpora, 100, "float32").spec
    values = {p: v.numpy() for p, v in named_variables(build_model(spec, seed=0)).items()}
    family = "roberta" if preset.startswith("roberta") else None
    saved = PretrainedModel(values, spec, preset)
    if spec.kind == "electra":
        saved = part_of(saved, "discriminator")
    save(saved, str(tmp_path / "hf"), "hf", family=family)
    assert (tmp_path / "hf" / "model.safetensors").is_file()
