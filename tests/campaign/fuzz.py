"""Inputs derived from real files, each given to a command in a child process."""

from __future__ import annotations

import hashlib
import math
import random
import shlex
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.campaign import mutate
from tests.campaign.forked import GIB, Limits, Outcome, Watch, run
from tests.campaign.seeds import command
from tests.campaign.targets import TARGETS, TF_CONFIG, Target

LIMITS = Limits(seconds=120.0, memory=3 * GIB)
# The longest line that an error may be.
LINE = 2000
CODES = {0, 1, 2, 138}


def digest_of(batches: Iterable[Any], dataset: Any) -> str:
    """SHA-256 of all arrays; what cannot be read raises the error that training would print."""
    from tpu_tlm.data.dataset.stream import failure, is_reading_error

    digest = hashlib.sha256()
    try:
        for batch in batches:
            for name in sorted(batch):
                digest.update(batch[name].numpy().tobytes())
    except Exception as error:
        if not is_reading_error(dataset, error):
            raise
        raise failure(dataset, error) from None
    return digest.hexdigest()


def read_dataset(argv: list[str]) -> int:
    """Open a dataset as training does, and read it through."""
    from tpu_tlm.config import TokenizerConfig
    from tpu_tlm.data.dataset.dataset import open_dataset
    from tpu_tlm.data.dataset.stream import Stream
    from tpu_tlm.data.tokenizers.factory import make_tokenizer

    dataset = open_dataset(argv[0])
    given = dict(zip((name.lstrip("-") for name in argv[1::2]), argv[2::2], strict=True))
    tokenizer = make_tokenizer(TokenizerConfig(**given)) if given else dataset.load_tokenizer()
    dataset = dataset.for_tokenizer(tokenizer)
    digest = digest_of(Stream(dataset, seed=0, batch_size=8).batches(0).take(12), dataset)
    print(digest, dataset.num_samples, dataset.seq_length)
    return 0


@dataclass
class Fault:
    """An input that a command did not take as it should; `place` keeps it."""

    kind: str
    target: str
    seed: int
    what: str
    place: str


@dataclass
class Figures:
    """Counts of one target."""

    inputs: int = 0
    taken: int = 0
    refused: int = 0
    slowest: float = 0.0
    peak: int = 0
    faults: list[Fault] = field(default_factory=list)


def one(target: Target, seed: int, places: dict[str, Path], base: Path) -> tuple[Outcome, str, str]:
    """Make the input of this seed and run the command on it: (outcome, kind of fault, what)."""
    chance = random.Random(f"{target.name} {seed}")
    shutil.rmtree(base, ignore_errors=True)
    work, out, secret = base / "work", base / "out", base / "secret"
    shutil.copytree(places[target.seed], work)
    for directory in (out, secret, base / "tmp", base / "home"):
        directory.mkdir()
    shutil.copy(places["hf"] / "model.safetensors", secret)
    shutil.copy(places["hf"] / "vocab.txt", secret)
    environ = {"HOME": str(base / "home"), "TMPDIR": str(base / "tmp")}
    stdin = b""
    if target.file == "TF_CONFIG":
        bad = _changed(target, TF_CONFIG, seed, chance)
        environ["TF_CONFIG"] = bad.replace(b"\0", b"").decode("utf-8", "surrogateescape")
    elif target.file == "STDIN":
        stdin = _changed(target, b"w1 [MASK] w3\nw5 [MASK]\nw7 w8 [MASK] w9\n", seed, chance)
    else:
        name = target.file
        if name == "SHARD":
            name = chance.choice(sorted(path.name for path in work.glob("*.tfrecord")))
        _change_file(target, work / name, seed, chance)
    program, *line = shlex.split(target.line)
    roots = {"WORK": work, "OUT": out}
    writable = [str(out), str(base / "tmp")]
    if program == "train" and "--run_dir WORK" in target.line:
        writable.append(str(work))
    outcome = run(
        read_dataset if program == "read" else command(program),
        [_filled(value, roots, places) for value in line],
        base / "said",
        limits=LIMITS,
        watch=Watch(tuple(writable), str(secret)),
        cwd=out,
        environ=environ,
        stdin=stdin,
    )
    canary = any((place / "CANARY").exists() for place in (base, work, out))
    return (outcome, *judge(outcome, canary))


def _change_file(target: Target, path: Path, seed: int, chance: random.Random) -> None:
    bad = _changed(target, path.read_bytes(), seed, chance)
    path.write_bytes(bad)
    if seed >= 0 and target.reseal is not None and chance.random() < 0.6:
        try:
            target.reseal(path)
        except Exception:
            path.write_bytes(bad)  # what cannot be read cannot be sealed, either


def _changed(target: Target, good: bytes, seed: int, chance: random.Random) -> bytes:
    if seed < 0:
        return good
    try:
        return target.change(good, chance)
    except (RecursionError, ValueError, UnicodeError):
        # Too deep to be written by the library that writes the kind.
        return mutate.damaged(good, chance)


def _filled(value: str, roots: dict[str, Path], places: dict[str, Path]) -> str:
    """WORK/x and OUT/x below this input's directories, the name of a place as its path."""
    head, slash, rest = value.partition("/")
    if head in roots:
        return str(roots[head] / rest)
    return str(places[value]) if value in places and not slash else value


def judge(outcome: Outcome, canary: bool) -> tuple[str, str]:
    """The kind of fault, "" for none, and what shows it."""
    err = outcome.err
    if canary or any(event[0] == "code" for event in outcome.events):
        return "code", str(outcome.events[:2])
    writes = [event for event in outcome.events if event[0] == "write"]
    if writes:
        return "outside", str(writes[:2])
    reads = [event for event in outcome.events if event[0] == "read"]
    if reads:
        return "outside", str(reads[:2])
    if outcome.timed_out:
        return "hang", f"{outcome.seconds:.0f} s"
    if "Traceback (most recent call last)" in err:
        return "traceback", err.strip().splitlines()[-1][:300]
    if outcome.code not in CODES:
        return "crash", f"exit code {outcome.code}: {err[-200:]}"
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    if outcome.code and len(errors) != 1:
        return "no line", f"exit code {outcome.code}: {err[-200:]!r}"
    if any(len(line) > LINE for line in err.splitlines()):
        return "long line", f"{max(map(len, err.splitlines()))} characters"
    if outcome.code == 0 and errors:
        return "exit code", errors[0][:200]
    return "", ""


def fuzz(
    places: dict[str, Path],
    base: Path,
    inputs: int,
    shard: int = 0,
    shards: int = 1,
    short: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Figures]:
    """Run `inputs` inputs in all over the targets by their shares; those of one shard of them.

    short: one input of each target that needs no training, and no unchanged ones.
    """
    total = sum(target.share for target in TARGETS)
    found: dict[str, Figures] = {}
    turn = 0
    for target in TARGETS:
        count = max(1, math.ceil(inputs * target.share / total))
        figures = found.setdefault(target.name, Figures())
        trains = target.line.startswith(("train --train_dir", "finetune", "vocab"))
        if short and trains and target.file != "TF_CONFIG":  # refused before it trains
            del found[target.name]
            continue
        if shard == 0 and not short:
            outcome, kind, what = one(target, -1, places, base / f"input{shard}")
            if kind or (target.says not in outcome.err if target.says else outcome.code):
                fault = f"{kind} {what} exit code {outcome.code}: {outcome.err[-500:]}"
                say(f"{target.name}: the unchanged file: {fault}")
                figures.faults.append(Fault("unchanged", target.name, -1, fault, ""))
        for seed in range(count):
            turn += 1
            if turn % shards != shard:
                continue
            outcome, kind, what = one(target, seed, places, base / f"input{shard}")
            figures.inputs += 1
            figures.taken += outcome.code == 0
            figures.refused += outcome.code != 0
            figures.slowest = max(figures.slowest, outcome.seconds)
            figures.peak = max(figures.peak, outcome.peak)
            if kind:
                faults = base / "faults"
                kept = faults / f"{len(list(faults.glob('*'))):03d}-{kind.replace(' ', '_')}"
                shutil.copytree(base / f"input{shard}", kept, symlinks=True)
                figures.faults.append(Fault(kind, target.name, seed, what, str(kept)))
                say(f"{kind}: {target.name} seed {seed}: {what} ({kept})")
        say(
            f"{target.name}: {figures.inputs} inputs, {figures.taken} taken,"
            f" {len(figures.faults)} faults, slowest {figures.slowest:.1f} s"
        )
    return found
