"""One byte of a run or a dataset changed: named, or without effect, never another result."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.campaign.forked import Outcome, Watch, run
from tests.campaign.fuzz import LIMITS, Fault, Figures, judge, read_dataset
from tests.campaign.seeds import command

# Where convert says what it read and wrote, which differs with the place.
_ORIGIN = "tpu_tlm/origin"


def damage(
    places: dict[str, Path],
    base: Path,
    count: int,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Figures]:
    """Change `count` bytes in all, spread over every file of the run and the dataset."""
    found = {}
    for kind, place, result in (
        ("a run, converted", "run", _converted),
        ("a dataset, read", "data", _read),
    ):
        figures = found.setdefault(kind, Figures())
        source = places[place]
        files = sorted(p.relative_to(source) for p in source.rglob("*") if p.is_file())
        want = _result(source, base, result)
        if want[1] is None:
            raise RuntimeError(want[0].err)
        chance = random.Random(f"{kind} {seed}")
        share = count // 2
        for turn in range(share):
            # Every file in turn, at a random byte; small ones are damaged more densely.
            name = files[turn % len(files)]
            work = base / "work"
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(source, work)
            what = _change(work / name, chance, turn // len(files))
            outcome, got = _result(work, base, result)
            figures.inputs += 1
            figures.taken += outcome.code == 0
            figures.refused += outcome.code != 0
            figures.slowest = max(figures.slowest, outcome.seconds)
            figures.peak = max(figures.peak, outcome.peak)
            fault, why = judge(outcome, False)
            named = "skipped" in outcome.err + outcome.out or "warning" in outcome.err
            if not fault and outcome.code == 0 and got != want[1] and not named:
                fault, why = "silent", "another result without a word"
            if not fault and outcome.code and str(work) not in outcome.err:
                fault, why = "not named", outcome.err.strip()[-300:]
            if fault:
                figures.faults.append(Fault(fault, kind, turn, f"{name} {what}: {why}", ""))
                say(f"{fault}: {kind}: {name} {what}: {why}")
        say(
            f"{kind}: {figures.inputs} bytes of {len(files)} files, {figures.refused} refused,"
            f" {len(figures.faults)} faults"
        )
    return found


def _change(path: Path, chance: random.Random, turn: int) -> str:
    """Flip a bit, overwrite a byte, or cut or lengthen the file by one; says what was done."""
    data = bytearray(path.read_bytes())
    if turn % 8 == 7 or not data:
        cut = bool(data) and chance.random() < 0.5
        path.write_bytes(bytes(data[:-1]) if cut else bytes(data) + b"\0")
        return "cut by a byte" if cut else "longer by a byte"
    at = chance.randrange(len(data))
    data[at] = data[at] ^ (1 << chance.randrange(8)) if turn % 2 else (data[at] + 1) % 256
    path.write_bytes(data)
    return f"byte {at}"


def _result(
    work: Path, base: Path, result: Callable[[Path, Path], tuple[Outcome, object]]
) -> tuple[Outcome, object]:
    out = base / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (base / "tmp").mkdir(exist_ok=True)
    return result(work, base)


def _converted(work: Path, base: Path) -> tuple[Outcome, object]:
    target = base / "out" / "x.npz"
    outcome = _command(command("convert"), [work, target], base)
    if outcome.code or not target.exists():
        return outcome, None
    with np.load(target) as arrays:
        digests = {n: hashlib.sha256(arrays[n].tobytes()).hexdigest() for n in arrays.files}
    digests.pop(_ORIGIN, None)
    return outcome, digests


def _read(work: Path, base: Path) -> tuple[Outcome, object]:
    outcome = _command(read_dataset, [work], base)
    return outcome, None if outcome.code else outcome.out


def _command(main: Callable[[list[str]], int | None], argv: list[Path], base: Path) -> Outcome:
    watch = Watch((str(base / "out"), str(base / "tmp")))
    environ = {"TMPDIR": str(base / "tmp"), "HOME": str(base / "tmp")}
    return run(main, argv, base / "said", limits=LIMITS, watch=watch, environ=environ)
