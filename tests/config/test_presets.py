"""Presets: their sizes are those of the published models, and every command takes them."""

from __future__ import annotations

import dataclasses

import pytest

from tpu_tlm.config import Config, ModelConfig, PreprocessConfig, cli
from tpu_tlm.config.command_table import COMMANDS
from tpu_tlm.config.options import options_of
from tpu_tlm.config.presets import PRESETS

# layers, width, heads, feed-forward, vocabulary; from the models' published config.json files.
PUBLISHED = {
    "bert-base": (12, 768, 12, 3072, 30522),
    "bert-large": (24, 1024, 16, 4096, 30522),
    "bert-small": (4, 512, 8, 2048, 30522),
    "bert-tiny": (2, 128, 2, 512, 30522),
    "roberta-base": (12, 768, 12, 3072, None),
    "electra-small": (12, 256, 4, 1024, 30522),
    "electra-base": (12, 768, 12, 3072, 30522),
    "gpt2": (12, 768, 12, 3072, None),
    "t5-small": (6, 512, 8, 2048, None),
    "modernbert-base": (22, 768, 12, 1152, None),
    "modernbert-large": (28, 1024, 16, 2624, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    model = Config.preset(name).model
    layers, width, heads, ff, vocabulary = PUBLISHED[name]
    assert (model.num_layers, model.d_model, model.num_heads, model.d_ff) == (
        layers,
        width,
        heads,
        ff,
    )
    assert vocabulary in (None, PRESETS[name].text["vocab_size"])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_only_options_that_act(name):
    """No unknown name, and none that the preset's own objective leaves idle."""
    train = options_of(Config.groups())
    text = options_of(COMMANDS["preprocess"].groups) | options_of(COMMANDS["vocab"].groups[1:])
    assert set(PRESETS[name].values) <= set(train) and set(PRESETS[name].text) <= set(text)
    explicit = {k: v for k, v in PRESETS[name].values.items() if v != train[k].default}
    given = dict(PRESETS[name].values) | explicit
    config = Config(**given)
    assert {k: config.as_dict()[k] for k in given} == given
    assert PRESETS[name].source


@pytest.mark.parametrize("name", PRESETS)
def test_every_command_with_models_or_text_takes_it(name):
    for command, argv in {
        "train": ["--train_dir", "d", "--run_dir", "r"],
        "plan": ["--tpu", "v5e-1"],
        "preprocess": ["--input_files", "x", "--output", "o", "--vocab", "v"],
        "vocab": ["--input_files", "x", "--output", "o"],
        "convert": ["a.npz", "b.npz"],
    }.items():
        groups = COMMANDS[command].groups
        parts = cli.parse(
            f"tpu_tlm.{command}",
            "",
            groups,
            [*argv, "--preset", name],
            check_required=command != "plan",
        )
        values = cli.as_values(*parts)
        expected = (
            PRESETS[name].text if command in ("preprocess", "vocab") else PRESETS[name].values
        )
        for option, value in expected.items():
            if (command, option, value) == ("preprocess", "subword_type", "byte-bpe"):
                value = None  # the files at --vocab say it
            assert values.get(option, value) == value, (command, option)
        if command == "plan":
            assert values["seq_length"] == PRESETS[name].text["seq_length"]


def test_flags_win_over_a_preset_and_a_preset_flag_over_a_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("preset: bert-base\nlr: 0.5\nd_ff: 100\n")
    groups = Config.groups()
    given = ["--train_dir", "d", "--run_dir", "r", "--config", str(file)]
    config = Config(*cli.parse("tpu_tlm.train", "", groups, [*given, "--num_layers", "3"]))
    assert (config.model.num_layers, config.model.d_model, config.model.d_ff) == (3, 768, 100)
    assert (config.optim.lr, config.run.preset) == (0.5, "bert-base")
    config = Config(*cli.parse("tpu_tlm.train", "", groups, [*given, "--preset", "bert-tiny"]))
    assert (config.model.d_model, config.model.d_ff, config.optim.lr) == (128, 512, 1.5e-3)
    # A resolved file holds everything: reading it back changes nothing.
    config.to_yaml(tmp_path / "all.yaml")
    assert Config.from_yaml(tmp_path / "all.yaml") == config
    # A flag that excludes one of its options wins over it.
    config.replace(steps=100).to_yaml(tmp_path / "all.yaml")
    assert Config.from_yaml(tmp_path / "all.yaml", epochs=2).run.steps is None


def test_an_objective_flag_drops_what_the_preset_says_of_its_own():
    config = Config.preset("electra-base", objective="mlm")
    assert config.electra == Config().electra and config.run.objective == "mlm"


def test_the_published_warm_up_is_for_long_runs():
    assert Config.preset("bert-base", steps=1_000_000).optim.warmup_steps == 10000
    assert Config.preset("bert-base", steps=1000).optim.warmup_steps is None


def test_a_dataset_gives_plan_its_lengths():
    groups = COMMANDS["plan"].groups
    given = ["--tpu", "v5e-1", "--preset", "bert-base", "--train_dir", "d"]
    plan = cli.parse("tpu_tlm.plan", "", groups, given, check_required=False)[0]
    assert plan.seq_length is None and plan.vocab_size is None


def test_framing_comes_with_the_preset():
    groups = COMMANDS["preprocess"].groups
    given = ["--input_files", "x", "--output", "o", "--vocab", "v", "--preset", "bert-small"]
    parts = dict(zip(groups, cli.parse("tpu_tlm.preprocess", "", groups, given), strict=True))
    made = parts[PreprocessConfig]
    assert (made.prefix, made.suffix, made.eol_token) == ("[CLS]", "[SEP]", None)


def test_sizes_agree_with_transformers():
    """HuggingFace's default configurations are the base models."""
    transformers = pytest.importorskip("transformers")
    names = {
        "bert-base": transformers.BertConfig,
        "roberta-base": transformers.RobertaConfig,
        "electra-small": transformers.ElectraConfig,
        "gpt2": transformers.GPT2Config,
        "modernbert-base": transformers.ModernBertConfig,
    }
    for name, kind in names.items():
        model: ModelConfig = Config.preset(name).model
        theirs = kind()
        assert (model.d_model, model.num_layers, model.num_heads) == (
            theirs.hidden_size,
            theirs.num_hidden_layers,
            theirs.num_attention_heads,
        )
        width = getattr(theirs, "intermediate_size", None) or 4 * theirs.hidden_size
        assert model.d_ff == width
        epsilon = [
            getattr(theirs, key)
            for key in ("layer_norm_eps", "layer_norm_epsilon", "norm_eps")
            if hasattr(theirs, key)
        ]
        # RobertaConfig's own default differs from the 1e-5 of the released roberta-base.
        if name != "roberta-base":
            assert model.layer_norm_eps == epsilon[0]
        assert model.weight_std == theirs.initializer_range
        if name == "electra-small":
            assert model.embedding_size == theirs.embedding_size


def test_presets_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["gpt2"].source = ""  # type: ignore[misc]
