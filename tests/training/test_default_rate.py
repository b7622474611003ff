"""The learning rate where none is given: by the size, of the continued run, of `--init_from`."""

from __future__ import annotations

import pytest

from tests.toy_runs import ToyRun, fit
from tests.training.test_initial_model import config_of
from tpu_tlm.checkpoints.run_dir import RunDir
from tpu_tlm.config import Config, OptimConfig, cli
from tpu_tlm.config.optimizer import rate_of_size


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({}, 4e-4),
        ({"d_model": 1024, "num_layers": 2}, 4e-4),
        ({"d_model": 256, "num_layers": 2}, 8e-4),
        ({"d_model": 256}, 4e-4),
        ({"d_model": 128, "num_layers": 2}, 1.6e-3),
        ({"d_model": 128, "num_layers": 4}, 1.1e-3),
        ({"d_model": 128}, 8e-4),
        ({"d_model": 16}, 2e-3),
        ({"d_model": 128, "num_layers": 2, "lr": 4e-4}, 4e-4),
        ({"d_model": 128, "num_layers": 2, "optimizer": "adam"}, 1.6e-3),
        ({"d_model": 128, "num_layers": 2, "optimizer": "lamb"}, 4e-4),
        ({"d_model": 128, "num_layers": 2, "init_from": "model"}, 4e-4),
        ({"d_model": 512, "preset": "bert-tiny", "num_heads": 8}, 1.5e-3),
    ],
)
def test_the_rate_is_by_the_size_unless_something_gives_one(options, rate):
    config = Config(**options)
    assert config.optim.lr == pytest.approx(rate)
    assert ("lr" in config.given) == ("lr" in options)


def test_files_and_flags(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("d_model: 128\nnum_layers: 2\n")
    given = ["--train_dir", "d", "--run_dir", "r", "--config", str(file)]

    def rate(*flags: str) -> float:
        return Config(*cli.parse("tpu_tlm.train", "", Config.groups(), [*given, *flags])).optim.lr

    assert rate() == pytest.approx(1.6e-3)
    assert rate("--d_model", "256") == pytest.approx(8e-4)
    assert rate("--lr", "0.1") == 0.1
    # A resolved file says it, whatever the default is now.
    file.write_text(Config(d_model=128, num_layers=2, lr=4e-4).to_yaml())
    assert rate() == 4e-4


def test_a_continued_run_keeps_its_rate(toy_run: ToyRun, tmp_path, capsys):
    """A run of an earlier version, whose default was another, has its own bits to continue."""
    small = {"d_model": 32, "d_ff": 64, "num_heads": 2, "num_layers": 1}

    def saved() -> float:
        return RunDir(str(tmp_path / "run")).load([OptimConfig])[0].lr

    fit(config_of(toy_run.corpus, tmp_path, lr=4e-4, **small))
    capsys.readouterr()
    fit(config_of(toy_run.corpus, tmp_path, **small, steps=2))
    assert "another option: --lr" not in capsys.readouterr().out and saved() == 4e-4
    fit(config_of(toy_run.corpus, tmp_path, **small, steps=3, lr=1e-3))
    assert "--lr was 0.0004 and is now 0.001" in capsys.readouterr().out and saved() == 1e-3


def test_sizes_taken_from_a_model_decide_too(toy_run: ToyRun, tmp_path):
    fit(config_of(toy_run.corpus, tmp_path, init_from=str(toy_run.run_dir)))
    (optim,) = RunDir(str(tmp_path / "run")).load([OptimConfig])
    assert optim.lr == pytest.approx(rate_of_size(32, 1, "adamw") / 4) == pytest.approx(5e-4)


def test_a_file_that_gives_the_default_is_heeded(toy_run: ToyRun, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("lr: 0.0004\n")
    given = config_of(toy_run.corpus, tmp_path, init_from=str(toy_run.run_dir)).as_dict()
    names = ("train_dir", "run_dir", "init_from", "batch_size", "steps", "warmup_steps")
    names += ("distribute", "tensorboard", "report", "samples")
    fit(Config.from_yaml(file, **{name: given[name] for name in names}))
    assert RunDir(str(tmp_path / "run")).load([OptimConfig])[0].lr == 4e-4
