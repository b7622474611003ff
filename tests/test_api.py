"""The Python face: each verb, and a model of each use, in five lines or fewer."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tpu_tlm as tlm
from tests.paths import ROOT
from tests.toy import toy_pairs

SIZES = dict(d_model=16, d_ff=32, num_heads=2, num_layers=1, dropout=0.0)
SIZES |= dict(tensorboard=False, report=False, samples=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text, a tokenizer, a dataset and a run, made through the face alone."""
    base = tmp_path_factory.mktemp("face")
    lines = [f"the {a} dog sees the {b} cat ." for a in ("old", "red") for b in ("big", "shy")]
    (base / "text.txt").write_text("\n".join(lines * 60) + "\n")
    tokenizer = tlm.learn_tokenizer(
        base / "text.txt", base / "vocab", subword_type="wordpiece", vocab_size=60, workers=1
    )
    assert tokenizer.mask_id is not None
    tlm.preprocess(
        base / "text.txt",
        base / "data",
        vocab=base / "vocab",
        seq_length=16,
        prefix="[CLS]",
        document="line",
        valid_fraction=0.2,
        workers=1,
    )
    config = tlm.Config(
        train_dir=str(base / "data/train"),
        valid_dir=str(base / "data/valid"),
        run_dir=str(base / "run"),
        steps=20,
        batch_size=8,
        steps_per_call=10,
        **SIZES,
    )
    result = tlm.train(config, display=False)
    assert result.steps == 20 and result.validation is not None
    return base


def test_importing_takes_no_tensorflow_and_little_time() -> None:
    code = (
        "import time; start = time.process_time(); import tpu_tlm, sys; dir(tpu_tlm); "
        "tpu_tlm.Config; assert 'tensorflow' not in sys.modules; "
        "print(time.process_time() - start)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 0.5


def test_every_name_of_the_face_exists() -> None:
    assert all(getattr(tlm, name) is not None for name in tlm.__all__)
    with pytest.raises(AttributeError):
        tlm.nothing_of_the_kind  # noqa: B018


def test_a_command_s_module_does_not_hide_the_function_of_its_name() -> None:
    for name in ("train", "evaluate", "convert", "plan", "preprocess", "finetune"):
        module = importlib.import_module(f"tpu_tlm.{name}")
        assert module.main is not None and callable(getattr(tlm, name))


def test_fill_mask(made: Path) -> None:
    model = tlm.load(made / "run")
    guesses = model.fill_mask("the [MASK] dog sees the [MASK] cat .", top_k=3)
    assert [len(mask) for mask in guesses] == [3, 3]
    assert sum(guess.probability for guess in guesses[0]) <= 1.0
    several = model.fill_mask(["the [MASK] dog", "a [MASK]"])
    assert len(several) == 2
    with pytest.raises(tlm.UsageError, match="MASK"):
        model.fill_mask("no mask here")


def test_encode(made: Path) -> None:
    model = tlm.load(made / "run")
    vectors = model.encode(["the old dog", "the red cat sees the big dog ."], pooling="cls")
    assert vectors.shape == (2, 16) and vectors.dtype == np.float32
    again = model.encode(["the red cat sees the big dog ."], pooling="cls")
    np.testing.assert_allclose(again[0], vectors[1], atol=1e-5)
    assert model.keras is model.keras and model.spec.kind == "mlm"


def test_save_and_load_again(made: Path, tmp_path: Path) -> None:
    model = tlm.load(made / "run")
    model.save(tmp_path / "model.npz")
    again = tlm.load(tmp_path / "model.npz", tokenizer=made / "run" / "tokenizer")
    np.testing.assert_array_equal(again.encode(["the old dog"]), model.encode(["the old dog"]))
    tlm.convert(made / "run", tmp_path / "other.npz")
    assert (tmp_path / "other.npz").stat().st_size > 1000
    with pytest.raises(tlm.UsageError):
        model.save(tmp_path / "model")


def test_evaluate(made: Path) -> None:
    found = tlm.evaluate(made / "run", made / "data/valid", batch_size=4)
    assert found["loss"] > 0 and found["objective"] == "mlm"


def test_generate_and_rank(made: Path, tmp_path: Path) -> None:
    common = dict(steps=2, batch_size=8, steps_per_call=2, xla=False, **SIZES)
    causal = tlm.Config(
        train_dir=str(made / "data/train"),
        run_dir=str(tmp_path / "clm"),
        objective="clm",
        **common,
    )
    tlm.Trainer(causal, display=False).fit()
    text = tlm.load(tmp_path / "clm").generate("the old", max_tokens=4, seed=1)
    assert isinstance(text.text, str) and len(text.ids) <= 4
    pairs = toy_pairs(tmp_path / "pairs")
    dual = tlm.Config(
        train_dir=str(pairs), run_dir=str(tmp_path / "dual"), objective="dual-encoder", **common
    )
    tlm.train(dual, display=False)
    (ranked,) = tlm.load(tmp_path / "dual").rank(["w1 w2"], ["w3 w4", "w5"], top_k=2)
    assert {response.number for response in ranked} == {0, 1}


def test_a_preset_acts_in_every_function(made: Path, tmp_path: Path) -> None:
    tokenizer = tlm.learn_tokenizer(
        made / "text.txt", tmp_path / "vocab", preset="bert-tiny", vocab_size=60, workers=1
    )
    assert tokenizer.kind == "wordpiece" and not tokenizer.cased
    with pytest.raises(tlm.UsageError, match="no-such"):
        tlm.preprocess(made / "text.txt", tmp_path / "d", vocab=made / "vocab", preset="no-such")


def test_errors_name_parameters(made: Path) -> None:
    with pytest.raises(tlm.UsageError) as error:
        tlm.Config(mask_rate=1.5)
    assert "mask_rate" in str(error.value) and "--mask_rate" not in str(error.value)
    with pytest.raises(tlm.UsageError, match="vocab_sise"):
        tlm.learn_tokenizer(made / "text.txt", made / "x", vocab_sise=3)
    with pytest.raises(tlm.UsageError, match="nothing"):
        tlm.load(made / "nothing")


def test_errors_from_below_the_face_name_parameters(made: Path, tmp_path: Path) -> None:
    wrong: list[Callable[[], object]] = [
        lambda: tlm.convert(made / "run", tmp_path / "out", to="nothing"),
        lambda: tlm.preprocess(made / "text.txt", tmp_path / "d", vocab=made / "no", of=2, index=5),
        lambda: tlm.learn_tokenizer(made / "text.txt", made / "vocab"),
        lambda: tlm.load(made / "run").encode(["a"], batch_size=0),
    ]
    for call in wrong:
        with pytest.raises(tlm.TlmError) as error:
            call()
        assert "--" not in str(error.value) and "--" in error.value.as_flags


def test_configurations_go_to_yaml_and_back(tmp_path: Path) -> None:
    config = tlm.Config.preset("bert-tiny", train_dir="data", run_dir="run", steps=5)
    config.to_yaml(tmp_path / "config.yaml")
    assert tlm.Config.from_yaml(tmp_path / "config.yaml").as_dict() == config.as_dict()
