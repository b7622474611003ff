"""The campaign: python -m tests.campaign [--scale 1] [--jobs 2] [--out FILE.md].

Kills, signals, two workers, damaged bytes and fuzzed inputs, with fixed seeds; a table at the end.
Exit code 1 where anything is not as it should be. --short is a form of it for every test run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.campaign.table import markdown
from tests.paths import ROOT

# Inputs, kills and so on at --scale 1 (bytes: the share of all), and into how many parts the work
# is cut.
SIZES = {"kills": 100, "signals": 40, "workers": 20, "damage": 300, "bytes": 1, "fuzz": 1000}
FUZZ_SHARDS = 2
KILLS, SIGNALS = "kill -9 at random moments and inside saves", "SIGTERM, SIGINT, SIGHUP"
WORKERS, BYTE, FUZZED = "two workers, one or both killed", "one byte changed in ", "fuzzed: "


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full campaign")
    parser.add_argument("--jobs", type=int, default=2, help="parts that run at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="parts, separated by commas")
    parser.add_argument(
        "--fresh", type=int, default=10, help="every so many kills: a new interpreter; 0 = none"
    )
    parser.add_argument("--out", type=Path, help="file for the table (Markdown; .json beside it)")
    parser.add_argument("--work", type=Path, help="directory to work in; kept")
    parser.add_argument("--short", action="store_true", help="some of each, in a minute")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        return _part(given)
    with tempfile.TemporaryDirectory() as made:
        given.work = given.work or Path(made)
        results = _short(given) if given.short else _all(given)
    text = markdown(results)
    print(text)
    if given.out:
        given.out.write_text(text, encoding="utf-8")
        given.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    return 0 if all(not result["faults"] and not result["different"] for result in results) else 1


def _all(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the parts, `jobs` at a time, each in a process of its own."""
    names = [name for name in SIZES if not given.only or name in given.only.split(",")]
    if "fuzz" in names:
        names.remove("fuzz")
        names += [f"fuzz.{shard}" for shard in range(FUZZ_SHARDS)]
    waiting, running, results = list(names), {}, {}
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    while waiting or running:
        while waiting and len(running) < given.jobs:
            name = waiting.pop(0)
            place = given.work / name
            place.mkdir(parents=True, exist_ok=True)
            options = ["--scale", given.scale, "--seed", given.seed, "--fresh", given.fresh]
            call = [sys.executable, "-m", "tests.campaign", "--part", name, "--work", place]
            running[name] = subprocess.Popen([*map(str, [*call, *options])], cwd=ROOT, env=environ)
        time.sleep(0.2)
        for name, process in list(running.items()):
            if process.poll() is not None:
                del running[name]
                file = given.work / name / "result.json"
                results[name] = (
                    json.loads(file.read_text())
                    if file.exists()
                    else [
                        _row(name, faults=[f"the part ended with exit code {process.returncode}"])
                    ]
                )
    return _joined([row for name in names for row in results[name]])


def _part(given: argparse.Namespace) -> int:
    from tests.campaign import damage, every_byte, forked, fuzz, kills, seeds, workers

    began = time.monotonic()
    name, _, shard = given.part.partition(".")
    count = max(1, round(SIZES[name] * given.scale))
    base = given.work

    def say(text: str) -> None:
        print(text, flush=True)

    forked.preload()
    if name == "kills":
        found = kills.kills(base, count, given.seed, given.fresh, say)
        rows = [_counted(KILLS, found)]
    elif name == "signals":
        found = kills.signals(base, count, given.seed, given.fresh, say)
        rows = [_counted(SIGNALS, found)]
    elif name == "workers":
        found = workers.kills(base, count, given.seed, say)
        rows = [_counted(WORKERS, found)]
    elif name == "bytes":
        figures = every_byte.every_byte(base, max(1, round(1 / given.scale)), say=say)
        rows = [_figured(target, found) for target, found in figures.items()]
    else:
        (base / "faults").mkdir(exist_ok=True)
        places = seeds.make(base / "seeds")
        if name == "damage":
            figures = damage.damage(places, base, count, given.seed, say)
        else:
            figures = fuzz.fuzz(places, base, count, int(shard), FUZZ_SHARDS, say=say)
        title = BYTE if name == "damage" else FUZZED
        rows = [_figured(title + target, found) for target, found in figures.items()]
    for row in rows:
        row["seconds"] = (time.monotonic() - began) / len(rows)
    (base / "result.json").write_text(json.dumps(rows))
    return 0


def _short(given: argparse.Namespace) -> list[dict[str, Any]]:
    """A few of each kind in this process's children, without what takes long."""
    from tests.campaign import damage, every_byte, forked, fuzz, kills, seeds

    def say(text: str) -> None:
        print(text, flush=True)

    began = time.monotonic()
    forked.preload()
    base = given.work
    (base / "faults").mkdir()
    places = seeds.make(base / "seeds")
    killed = kills.kills(base, 2, given.seed, 0, say)
    signalled = kills.signals(base, 3, given.seed, 0, say)
    damaged = damage.damage(places, base, 24, given.seed, say)
    walked = every_byte.every_byte(base, 3001, base / "seeds", say)
    fuzzed = fuzz.fuzz(places, base, 0, short=True, say=say)
    rows = [_counted(KILLS, killed), _counted(SIGNALS, signalled)]
    rows += [_figured(BYTE + name, found) for name, found in damaged.items()]
    rows += [_figured(name, found) for name, found in walked.items()]
    rows += [_figured(FUZZED + name, found) for name, found in fuzzed.items()]
    for row in rows:
        row["seconds"] = (time.monotonic() - began) / len(rows)
    return rows


def _row(what: str, **values: Any) -> dict[str, Any]:
    empty = {"inputs": 0, "taken": 0, "refused": 0, "inside": 0, "fresh": 0, "early": 0}
    more = {"compared": 0, "different": 0, "slowest": 0.0, "peak": 0, "seconds": 0.0, "faults": []}
    return {"what": what, **empty, **more, **values}


def _counted(what: str, found: Any) -> dict[str, Any]:
    values = dataclasses.asdict(found)
    return _row(what, inputs=values.pop("done"), **values)


def _figured(what: str, found: Any) -> dict[str, Any]:
    values = dataclasses.asdict(found)
    values["faults"] = [
        f"{f['kind']}: {f['target']} seed {f['seed']}: {f['what']}" for f in values["faults"]
    ]
    return _row(what, **values)


def _joined(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The shards of one kind as one row."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["what"] not in found:
            found[row["what"]] = dict(row)
            continue
        into = found[row["what"]]
        for key, value in row.items():
            if key in ("slowest", "peak"):
                into[key] = max(into[key], value)
            elif key != "what":
                into[key] = into[key] + value
    return list(found.values())


if __name__ == "__main__":
    sys.exit(main())
