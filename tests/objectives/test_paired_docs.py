"""docs/paired.md: every flag exists, and ConveRT's preset makes the model of the paper."""

from __future__ import annotations

import shlex

import pytest

from tests.paths import ROOT
from tpu_tlm.config import (
    Config,
    CorpusConfig,
    EvaluateConfig,
    ModelConfig,
    PairsConfig,
    PredictConfig,
    PreprocessConfig,
    RuntimeConfig,
    TokenizerConfig,
    VocabConfig,
    cli,
)
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec

CLASSES = {
    "vocab": (CorpusConfig, VocabConfig),
    "preprocess": (CorpusConfig, TokenizerConfig, PreprocessConfig, PairsConfig),
    "train": Config.groups(),
    "evaluate": (EvaluateConfig, RuntimeConfig),
    "predict": (PredictConfig,),
}


def commands() -> list[tuple[str, list[str]]]:
    text = (ROOT / "docs" / "paired.md").read_text().replace("\\\n", " ")
    lines = [
        shlex.split(line) for line in text.splitlines() if line.startswith("    python -m tpu_tlm.")
    ]
    return [(line[2].removeprefix("tpu_tlm."), line[3:]) for line in lines]


@pytest.mark.parametrize("command", commands(), ids=lambda command: command[0])
def test_every_flag_is_one(command: tuple[str, list[str]]) -> None:
    name, given = command
    cli.parse(name, "", CLASSES[name], given)


def test_convert_has_the_sizes_of_the_paper() -> None:
    (given,) = [
        given
        for name, given in commands()
        if name == "train" and given[:2] == ["--preset", "convert"]
    ]
    parts = cli.parse("train", "", Config.groups(), given)
    config = next(part for part in parts if isinstance(part, ModelConfig))
    shapes = {
        path: tuple(v.shape)
        for path, v in named_variables(
            build_model(ModelSpec(config, 31000, 64, kind="dual", seq_length_y=64))
        ).items()
    }
    assert shapes["embeddings/x/table"][1] == 512 and {
        "embeddings/x/positions_long",
        "embeddings/x/positions_short",
    } <= set(shapes)
    assert [shapes[f"embeddings/x/positions_{name}"][0] for name in ("long", "short")] == [47, 11]
    assert {
        path.split("/")[1]
        for path in shapes
        if path.startswith("encoder/") and path.split("/")[1].isdigit()
    } == set("012345")
    assert [shapes[f"ff1/{name}/kernel"] for name in ("dense0", "dense1", "dense2", "out")] == [
        (1024, 1024)
    ] * 3 + [(1024, 512)]
    assert shapes["ff2/out/kernel"] == (1024, 512) and "reduction/head2/q/kernel" in shapes
