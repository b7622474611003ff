"""`Config`: flat options in, groups out, files and back."""

from __future__ import annotations

import dataclasses

import pytest

from tpu_tlm.config import Config, ContrastiveConfig, MlmConfig, ModelConfig, OptimConfig
from tpu_tlm.errors import OptionError, UsageError, run_command


def test_everything_has_a_default_and_options_are_flat():
    config = Config(lr=1e-3, objective="clm", rpr_k=4, train_dir="d")
    assert (config.optim.lr, config.run.objective, config.model.rpr_k) == (1e-3, "clm", [4])
    assert Config().model == ModelConfig() and Config() == Config()
    assert config.as_dict()["lr"] == 1e-3


def test_old_names_are_taken():
    config = Config(basedir="r", optim=OptimConfig(lr=0.1), dsz=12, causal=True)
    assert (config.run.run_dir, config.model.embedding_size) == ("r", 12)
    assert (config.run.objective, config.optim.lr) == ("clm", 0.1)
    assert Config(layer_norms_after=True).model.transformer_type == "post-layer-norm"


def test_groups_are_the_parts_in_order():
    config = Config(lr=1e-3)
    assert Config(*config.parts()) == config
    assert tuple(map(type, config.parts())) == Config.groups()
    changed = dataclasses.replace(config, model=ModelConfig(d_model=64))
    assert changed.model.d_model == 64 and changed.optim.lr == 1e-3
    with pytest.raises(TypeError, match="model"):
        Config(model=OptimConfig())
    options = Config(mask_rate=0.3).objectives
    assert options.mlm == options[MlmConfig] == MlmConfig(mask_rate=0.3)
    assert options.contrastive == ContrastiveConfig()


def test_replace_gives_a_checked_copy():
    config = Config(mask_rate=0.3, steps=10)
    assert config.replace(lr=0.1).mlm.mask_rate == 0.3
    # The new objective has no masks: what made them goes back to its default.
    assert config.replace(objective="clm").mlm == MlmConfig()
    assert config.replace(epochs=3).run.steps is None
    with pytest.raises(OptionError, match="^mask_rate 2: "):
        config.replace(mask_rate=2)


def test_a_copy_has_given_what_was_given():
    """`train` takes the rest from the model of --init_from, or from the run that is continued."""
    config = Config(preset="bert-tiny", dropout=0.2, lr=4e-4)
    assert config.given == {"preset", "dropout", "lr"}
    assert config.replace(steps=10).given == {"preset", "dropout", "lr", "steps"}
    small = Config(d_model=128, num_layers=2)
    copy = small.replace(steps=10)
    assert copy.given == {"d_model", "num_layers", "steps"} and copy.optim == small.optim
    assert small.replace(optim=OptimConfig(lr=0.1)).given == {"d_model", "num_layers", "lr"}


def test_yaml_there_and_back(tmp_path):
    config = Config(train_dir="a: b", rpr_k=[1, 2], num_layers=2, eps=1e-8, seed=2**60 + 1)
    path = tmp_path / "c.yaml"
    text = config.to_yaml(path)
    assert path.read_text() == text and Config.from_yaml(path) == config
    assert Config.from_yaml(path, lr=0.5).optim.lr == 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mask_rate": 1.5}, ["mask_rate 1.5", "at most 1"]),
        ({"mask_rate": "half"}, ["mask_rate half", "number"]),
        ({"d_model": 12.5}, ["d_model", "whole number"]),
        ({"batch_size": True}, ["batch_size", "whole number"]),
        ({"dropout": float("nan")}, ["dropout", "finite"]),
        ({"optimizer": "adamx"}, ["optimizer", "did you mean adam"]),
        ({"steps": 1, "epochs": 1}, ["steps", "epochs"]),
        ({"objective": "clm", "mask_rate": 0.2}, ["mask_rate", "clm"]),
        ({"learning_rate": 1}, ["learning_rate", "lr"]),
        ({"lernrate": 1}, ["lernrate"]),
        ({"train_dir": 1.5}, ["train_dir", "text"]),
        ({"preset": "bert"}, ["preset", "bert-base"]),
    ],
)
def test_errors_name_parameters(options, words):
    with pytest.raises(UsageError) as error:
        Config(**options)
    message = str(error.value)
    assert all(word in message for word in words) and "--" not in message, message


def test_a_group_checks_itself():
    with pytest.raises(OptionError, match="^mask_token_rate 0.9 and mask_random_rate 0.3: "):
        MlmConfig(mask_token_rate=0.9, mask_random_rate=0.3)
    with pytest.raises(OptionError, match="dropout 1.5"):
        ModelConfig(dropout=1.5)
    assert ModelConfig(d_model=64.0).d_model == 64 and ModelConfig(rpr_k=(1,)).rpr_k == [1]


def test_a_command_prints_the_same_error_with_flags(capsys):
    def main(argv):
        MlmConfig(mask_rate=1.5)

    assert run_command(main) == 2
    assert capsys.readouterr().err.startswith("error: --mask_rate 1.5: ")
