"""Choosing the response to a turn of a conversation among 100: chance, TF-IDF, and a small dual
encoder trained here on a processor.

The 131,548 pairs of neighbouring turns of the chitchat dataset (package `chitchat-dataset`, MIT),
divided by conversation: 90 % to train on, 5 % to choose settings by, 5 % for the figures. All rank
the same lots of 100 responses, the pairs taken in random order: recall@1 and recall@10 (share of
turns whose own response is first, or among the first ten) and the mean reciprocal rank; among
equals a response counts as in the middle. All see the last turn alone.

    pip install --no-deps chitchat-dataset==0.9.0
    python -m benchmarks.respond DIRECTORY
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CANDIDATES = 100
NEIGHBOURS = (1, 20)
Pair = tuple[str, str]
_WORD = re.compile(r"[a-z0-9']+|[^\sa-z0-9']")

# No positions beside those of attention, and no head: at first the vectors are bags of words, which
# is where TF-IDF ends. One head of attention sums them up, since it can learn which words count;
# behind a norm, a plain sum cannot. BERT's standard deviation of 0.02 is made for a width of 768.
SIZES = (
    "--d_model",
    256,
    "--d_ff",
    256,
    "--num_heads",
    4,
    "--d_k",
    32,
    "--num_layers",
    1,
    "--ra_type",
    "convert",
    "--rpr_k",
    8,
)
HEAD = (
    "--reduction_type",
    "sha",
    "--d_out",
    256,
    "--weight_std",
    0.06,
    "--init_temp",
    3.0,
    "--dropout",
    0.1,
)
STEPS = (
    "--batch_size",
    256,
    "--lr",
    2e-3,
    "--warmup_steps",
    100,
    "--save_steps",
    300,
    "--tensorboard",
    "false",
)


def conversations() -> list[list[str]]:
    """The turns of each conversation; messages that one person sends in a row are one turn."""
    found = importlib.util.find_spec("chitchat_dataset")
    if found is None or not found.submodule_search_locations:
        sys.exit("a package is missing: pip install --no-deps chitchat-dataset==0.9.0")
    told = json.loads(
        (Path(found.submodule_search_locations[0]) / "dataset.json").read_text(encoding="utf-8")
    )
    every = []
    for _, conversation in sorted(told.items()):
        turns = [
            " ".join(" ".join(message["text"] for message in turn).split())
            for turn in conversation["messages"]
        ]
        every.append(turns)
    return every


def divided(seed: int = 0) -> dict[str, list[Pair]]:
    """Neighbouring turns by split, in random order; a conversation is in one split only."""
    every = conversations()
    rng = random.Random(seed)
    rng.shuffle(every)
    tenth = len(every) // 20
    splits = {"test": every[:tenth], "valid": every[tenth : 2 * tenth], "train": every[2 * tenth :]}
    pairs = {
        name: [(x, y) for turns in part for x, y in zip(turns, turns[1:], strict=False) if x and y]
        for name, part in splits.items()
    }
    for part in pairs.values():
        rng.shuffle(part)
    return pairs


def ranks_of(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The place of each row's own candidate (on the diagonal) in a lot, from 1; among equals the
    middle one.
    """
    own = np.diag(scores)[:, None]
    return 1.0 + (scores > own).sum(axis=1) + ((scores == own).sum(axis=1) - 1) / 2


class TfIdf:
    """Texts as sparse unit vectors: words weighted by (1 + log of their count) times log((1 + N)
    / (1 + texts that have them)) + 1.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        seen = Counter(word for text in texts for word in set(_WORD.findall(text.lower())))
        self.idf = {
            word: float(np.log((1 + len(texts)) / (1 + count))) + 1.0
            for word, count in seen.items()
        }

    def vector(self, text: str) -> dict[str, float]:
        """The words of a text with their weights; words that were never seen have none."""
        counts = Counter(_WORD.findall(text.lower()))
        weights = {
            word: (1.0 + float(np.log(count))) * self.idf[word]
            for word, count in counts.items()
            if word in self.idf
        }
        norm = float(np.sqrt(sum(weight * weight for weight in weights.values()))) or 1.0
        return {word: weight / norm for word, weight in weights.items()}

    def matrix(
        self, texts: Sequence[dict[str, float]], words: dict[str, int]
    ) -> NDArray[np.float64]:
        """Dense rows over some words only."""
        rows = np.zeros((len(texts), len(words)))
        for i, text in enumerate(texts):
            for word, weight in text.items():
                if word in words:
                    rows[i, words[word]] += weight
        return rows


class Neighbours:
    """The most similar turns of the training set, and what was responded to them."""

    def __init__(self, tfidf: TfIdf, pairs: Sequence[Pair], largest: int) -> None:
        self.tfidf, self.largest = tfidf, largest
        self.answers = [y for _, y in pairs]
        postings: dict[str, list[tuple[int, float]]] = {}
        for number, (x, _) in enumerate(pairs):
            for word, weight in tfidf.vector(x).items():
                postings.setdefault(word, []).append((number, weight))
        self.postings = {
            word: (np.array([n for n, _ in e]), np.array([w for _, w in e], np.float32))
            for word, e in postings.items()
        }

    def nearest(self, turn: dict[str, float]) -> list[tuple[int, float]]:
        """Numbers and similarities of the most similar turns, nearest first."""
        scores = np.zeros(len(self.answers), np.float32)
        for word, weight in turn.items():
            if word in self.postings:
                numbers, weights = self.postings[word]
                scores[numbers] += np.float32(weight) * weights
        best = np.argpartition(-scores, self.largest)[: self.largest]
        return sorted(
            ((int(i), float(scores[i])) for i in best), key=lambda found: (-found[1], found[0])
        )

    def responses(self, turn: dict[str, float], counts: Sequence[int]) -> list[dict[str, float]]:
        """For each count, the sum of the vectors of the responses to so many nearest turns, each
        by its similarity.
        """
        found, sums = self.nearest(turn), []
        total: dict[str, float] = {}
        for place, (number, similarity) in enumerate(found, 1):
            for word, weight in self.tfidf.vector(self.answers[number]).items():
                total[word] = total.get(word, 0.0) + weight * similarity
            if place in counts:
                sums.append(dict(total))
        return sums


def measured(
    pairs: Sequence[Pair],
    tfidf: TfIdf,
    queries: Callable[[dict[str, float]], list[dict[str, float]]],
    count: int,
) -> list[dict[str, float]]:
    """Ranks by the cosine with the responses of each of the `count` vectors that `queries` makes
    of a turn; whole lots only.
    """
    ranks: list[list[NDArray[np.float64]]] = [[] for _ in range(count)]
    for at in range(0, len(pairs) - CANDIDATES + 1, CANDIDATES):
        lot = pairs[at : at + CANDIDATES]
        answers = [tfidf.vector(y) for _, y in lot]
        words = {
            word: i
            for i, word in enumerate(dict.fromkeys(word for answer in answers for word in answer))
        }
        right = tfidf.matrix(answers, words).T
        for found, vectors in zip(
            ranks, zip(*(queries(tfidf.vector(x)) for x, _ in lot), strict=True), strict=True
        ):
            found.append(ranks_of(tfidf.matrix(vectors, words) @ right))
    return [figures(np.concatenate(found)) for found in ranks]


def figures(ranks: NDArray[np.float64]) -> dict[str, float]:
    """Recall and mean reciprocal rank."""
    return {
        "recall@1": float((ranks <= 1).mean()),
        "recall@10": float((ranks <= 10).mean()),
        "mrr": float((1 / ranks).mean()),
    }


def command(name: str, *flags: Any) -> str:
    """Run one of the package's commands; its output. Its messages go to standard error."""
    done = subprocess.run(
        [sys.executable, "-m", f"tpu_tlm.{name}", *map(str, flags)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def prepared(base: Path, pairs: dict[str, list[Pair]], vocab_size: int, seq_length: int) -> None:
    """Rows, a vocabulary of the training texts, and a dataset for each split; those held out
    keep their order.
    """
    base.mkdir(parents=True, exist_ok=True)
    for name, part in pairs.items():
        rows, file = "".join(f"{x}\t{y}\n" for x, y in part), base / f"{name}.tsv"
        # Written again it would be a newer file, and the datasets made of it no longer its own.
        if not file.exists() or file.read_text(encoding="utf-8") != rows:
            file.write_text(rows, encoding="utf-8")
    kind = ("--subword_type", "wordpiece", "--cased", "false")
    command(
        "vocab",
        "--input_files",
        base / "train.tsv",
        "--output",
        base / "vocab",
        *kind,
        "--vocab_size",
        vocab_size,
    )
    for name in pairs:
        order = () if name == "train" else ("--shuffle", "false")
        where = (
            "--input_files",
            base / f"{name}.tsv",
            "--output",
            base / "data" / name,
            *kind,
            "--vocab",
            base / "vocab" / "vocab.txt",
        )
        command(
            "preprocess",
            *where,
            "--pairs",
            "tsv",
            "--seq_length",
            seq_length,
            "--seq_length_y",
            seq_length,
            *order,
        )


def evaluated(model: Path, data: Path) -> dict[str, float]:
    """Ranks of a dual encoder."""
    told: dict[str, float] = json.loads(
        command(
            "evaluate", "--model", model, "--data", data, "--candidates", CANDIDATES
        ).splitlines()[-1]
    )
    return told


def main() -> None:
    """Prepare, train, measure, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "directory", type=Path, help="where everything is kept; a run that was begun there goes on"
    )
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--seq_length", type=int, default=64)
    parser.add_argument(
        "--split",
        choices=("valid", "test"),
        default="test",
        help="what the figures are of; settings are chosen by valid",
    )
    parser.add_argument("--name", default="run", help="of the run in the directory")
    parser.add_argument("--flags", default="", help="more flags of train, in one string")
    given = parser.parse_args()
    base: Path = given.directory
    pairs = divided()
    held_out = pairs[given.split]
    print(
        f"pairs      {sum(map(len, pairs.values())):,}: "
        + ", ".join(f"{len(part):,} {name}" for name, part in pairs.items())
    )
    prepared(base, pairs, given.vocab_size, given.seq_length)

    rows: list[tuple[str, dict[str, float]]] = []
    n = CANDIDATES
    rows.append(
        (
            "chance",
            {
                "recall@1": 1 / n,
                "recall@10": 10 / n,
                "mrr": sum(1 / i for i in range(1, n + 1)) / n,
            },
        )
    )
    tfidf = TfIdf([text for pair in pairs["train"] for text in pair])
    rows.append(("TF-IDF, turn and response", measured(held_out, tfidf, lambda turn: [turn], 1)[0]))
    neighbours = Neighbours(tfidf, pairs["train"], max(NEIGHBOURS))
    found = measured(
        held_out, tfidf, lambda turn: neighbours.responses(turn, NEIGHBOURS), len(NEIGHBOURS)
    )
    for k, row in zip(NEIGHBOURS, found, strict=True):
        rows.append(
            (
                f"TF-IDF, responses to the {k} nearest turns"
                if k > 1
                else "TF-IDF, response to the nearest turn",
                row,
            )
        )

    run, data = base / given.name, base / "data"
    flags = [
        "--train_dir",
        data / "train",
        "--run_dir",
        run,
        "--objective",
        "dual-encoder",
        *SIZES,
        *HEAD,
        *STEPS,
        "--steps",
        given.steps,
    ]
    started, cpu = time.monotonic(), _children()
    command("train", *flags, *given.flags.split())
    seconds, cpu = time.monotonic() - started, _children() - cpu
    told = evaluated(run, data / given.split)
    if int(told["examples"]) != len(held_out):
        sys.exit(
            f"{data / given.split}: has {told['examples']} pairs of {len(held_out)}: the lots "
            "would not be the same"
        )
    rows.append(("dual encoder", told))

    print(
        f"training   {given.steps} steps, {seconds / 60:.1f} minutes, {cpu / 60:.1f} CPU minutes "
        "(0 steps made anew where it was there)"
    )
    print(f"figures    {given.split}, {len(held_out) // n * n:,} turns in lots of {n}")
    print(f"\n{'':40} {'recall@1':>9} {'recall@10':>9} {'MRR':>7}")
    for name, row in rows:
        print(f"{name:40} {row['recall@1']:9.1%} {row['recall@10']:9.1%} {row['mrr']:7.3f}")


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
