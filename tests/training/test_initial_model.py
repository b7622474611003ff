"""Options taken from --init_from, and what contradicts it."""

from __future__ import annotations

import shutil

import pytest

from tests.toy_runs import fit
from tests.training.test_warm_start import BERT, saved_of
from tpu_tlm.checkpoints.manager import Checkpoints
from tpu_tlm.config import Config
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.load import load
from tpu_tlm.formats.save import save
from tpu_tlm.training.initial_model import taken_line, with_initial_model


@pytest.fixture(scope="module")
def models(toy_corpus, tmp_path_factory):
    """A small BERT in several formats, with the tokenizer of the toy corpus."""
    base = tmp_path_factory.mktemp("models")
    saved = saved_of(BERT, open_dataset(str(toy_corpus.train)).load_tokenizer())
    for name, kind in (("hf", "hf"), ("model.npz", "npz"), ("bert", "bert")):
        save(saved, str(base / name), kind)
    return base


def config_of(corpus, tmp_path, **options):
    small = {"batch_size": 8, "steps": 1, "warmup_steps": 0, "distribute": "none"}
    small |= {"tensorboard": False, "report": False, "samples": 0}
    where = {"train_dir": str(corpus.train), "run_dir": str(tmp_path / "run")}
    return Config(**{**where, **small, **options})


@pytest.mark.parametrize("name", ["hf", "model.npz", "bert"])
def test_shape_and_head_come_from_the_model(name, models, toy_corpus, tmp_path):
    config = config_of(toy_corpus, tmp_path, init_from=str(models / name), dropout=0.0)
    full, initial = with_initial_model(config)
    for option in ("d_model", "d_ff", "num_layers", "mlm_head", "type_vocab_size"):
        assert getattr(full.model, option) == getattr(BERT, option), option
    assert full.model.position_encoding == ["learned"] and full.model.dropout == 0.0
    assert initial is not None and "d_model=32" in taken_line(initial)
    assert "mlm_head=bert" in taken_line(initial) and "batch_size" not in taken_line(initial)


def test_a_run_is_a_model_too(toy_run, tmp_path):
    config = config_of(toy_run.corpus, tmp_path, init_from=str(toy_run.run_dir))
    full, initial = with_initial_model(config)
    assert (full.model.d_model, full.model.rpr_k) == (32, [4]) and initial is not None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        # The first is the default: given all the same.
        ({"d_model": 512}, ["d_model: 32 there, 512 here"]),
        ({"num_layers": 3, "layer_norm_eps": 1e-5}, ["num_layers: 1 there, 3 here", "1e-05 here"]),
        ({"position_encoding": ["rotary"]}, ["position_encoding: learned there, rotary here"]),
    ],
)
def test_given_options_that_contradict_the_model_are_named(
    given, words, models, toy_corpus, tmp_path
):
    config = config_of(toy_corpus, tmp_path, init_from=str(models / "hf"), **given)
    with pytest.raises(UsageError) as error:
        with_initial_model(config)
    assert "--init_from" in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_preset_gives_way_in_shape_but_not_in_training(models, toy_corpus, tmp_path):
    config = config_of(toy_corpus, tmp_path, init_from=str(models / "hf"), preset="bert-small")
    full, _ = with_initial_model(config)
    assert full.model.d_model == 32 and full.optim.lr == config.optim.lr != Config().optim.lr


def test_the_same_options_continue_without_the_model(models, toy_corpus, tmp_path, capsys):
    shutil.copytree(models / "hf", tmp_path / "hf")
    fit(config_of(toy_corpus, tmp_path, init_from=str(tmp_path / "hf")))
    assert "options taken from" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "hf")
    fit(config_of(toy_corpus, tmp_path, init_from=str(tmp_path / "hf"), steps=2))
    assert Checkpoints(str(tmp_path / "run" / "checkpoints")).newest().step == 2
    with pytest.raises(UsageError, match="--d_model was 32 and is now 64"):
        fit(config_of(toy_corpus, tmp_path, init_from="gone", steps=3, d_model=64))


def test_a_step_of_a_run_is_named_behind_it(toy_run):
    run = str(toy_run.run_dir)
    places = (toy_run.run_dir / "checkpoints").glob("step-*")
    steps = [int(place.name.removeprefix("step-")) for place in places]
    first = min(steps)
    assert first < max(steps)
    saved = load(f"{run}@{first}")
    assert saved.source == load(run, step=first).source != load(run).source
    for path, words in ((f"{run}@7", "7"), (f"{run}@{first}x", "no such")):
        with pytest.raises((UsageError, TlmError), match=words):
            load(path)
    with pytest.raises(UsageError, match="--step"):
        load(f"{run}@{first}", step=first)
