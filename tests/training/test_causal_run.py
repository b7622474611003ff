"""A causal model through the commands: training, evaluation, generation."""

from __future__ import annotations

import json
import math

import pytest

from tests.command_modules import evaluate, predict, train
from tests.toy import BARE, SIZES, toy_dataset
from tpu_tlm.errors import UsageError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    base = tmp_path_factory.mktemp("causal")
    data = [
        str(toy_dataset(base / name, seed=seed)) for seed, name in enumerate(("train", "valid"))
    ]
    flags = [
        "--train_dir",
        data[0],
        "--valid_dir",
        data[1],
        "--run_dir",
        str(base / "run"),
        *SIZES,
        *BARE,
        "--distribute",
        "none",
    ]
    flags += [
        "--steps",
        "150",
        "--save_steps",
        "150",
        "--batch_size",
        "32",
        "--warmup_steps",
        "10",
        "--lr",
        "1e-2",
        "--dropout",
        "0",
        "--xla",
        "false",
    ]
    assert train.main([*flags, "--causal"]) == 0
    return base / "run", data[1]


def test_it_learns_to_count(trained, capsys):
    run, data = trained
    assert evaluate.main(["--model", str(run), "--data", data, "--distribute", "none"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["targets"] == 96 * 15 and result["perplexity"] == pytest.approx(
        math.exp(result["loss"])
    )
    # The first word of a sentence is not predicted; all others follow from it.
    assert result["accuracy"] > 0.95 and result["loss"] < 0.5


def test_it_continues_a_text(trained, capsys):
    run, _ = trained
    given = [
        "generate",
        "--model",
        str(run),
        "--text",
        "w7 w8 w9",
        "w31",
        "--max_tokens",
        "6",
        "--temperature",
        "0",
        "--json",
    ]
    assert predict.main(given) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["text"] == " ".join(f"w{i}" for i in range(7, 16))
    assert second["text"] == " ".join(f"w{i}" for i in range(31, 38)) and not second["ended"]


def test_either_spelling_is_the_same_run(trained, capsys):
    run, data = trained
    flags = [
        "--train_dir",
        data.replace("valid", "train"),
        "--valid_dir",
        data,
        "--run_dir",
        str(run),
        *SIZES,
        *BARE,
        "--distribute",
        "none",
    ]
    flags += [
        "--steps",
        "150",
        "--save_steps",
        "150",
        "--batch_size",
        "32",
        "--warmup_steps",
        "10",
        "--lr",
        "1e-2",
        "--dropout",
        "0",
        "--xla",
        "false",
    ]
    assert train.main([*flags, "--objective", "clm"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UsageError, match="objective"):
        train.main(flags)


def test_it_has_no_fill_mask(trained):
    with pytest.raises(UsageError, match="masked language model"):
        predict.main(["fill-mask", "--model", str(trained[0]), "--text", "w7 [MASK]"])
