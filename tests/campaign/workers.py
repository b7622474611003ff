"""Two workers of a job, one or both killed at a random moment, and continued to the same bits."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.campaign.forked import Child, Limits, start
from tests.campaign.kills import Count, _fault, differences, flags_of, half_written, prepare
from tests.campaign.seeds import command
from tests.ports import free_ports

LIMITS = Limits(seconds=300.0)
# Lost peer, or a death that the peer is told of; 143: a signal that both agreed on.
LEFT = (138,)


def job(base: Path, run_dir: Path) -> list[Child]:
    """The two processes: a chief and a worker of TF_CONFIG on loopback."""
    ports = free_ports(2)
    cluster = {"chief": [f"localhost:{ports[0]}"], "worker": [f"localhost:{ports[1]}"]}
    argv = [*flags_of(base, "mlm", run_dir), "--distribute", "auto", "--start_timeout", "120"]
    children = []
    for kind in ("chief", "worker"):
        config = {"cluster": cluster, "task": {"type": kind, "index": 0}, "environment": "cloud"}
        children.append(
            start(
                command("train"),
                argv,
                base / "said" / kind,
                limits=LIMITS,
                environ={"TF_CONFIG": json.dumps(config)},
            )
        )
    return children


def kills(base: Path, count: int, seed: int = 0, say: Callable[[str], None] = print) -> Count:
    """Kill one of the two (every fifth time both) `count` times."""
    prepare(base)
    found, chance, turn = Count(), random.Random(seed), 0
    whole = base / "whole-two"
    shutil.rmtree(whole, ignore_errors=True)
    began = time.monotonic()
    for child in job(base, whole):
        outcome = child.wait()
        if outcome.code:
            raise RuntimeError(f"two workers: exit code {outcome.code}: {outcome.err[-2000:]}")
    seconds = time.monotonic() - began
    while found.done < count:
        turn += 1
        run_dir = base / f"two-{turn}"
        for _ in range(5):
            if found.done >= count:
                break
            children = job(base, run_dir)
            moment = chance.uniform(0.1, 0.9) * seconds
            while time.monotonic() - children[0].began < moment and not children[0].poll():
                time.sleep(0.001)
            both = found.done % 5 == 4
            victims = children if both else [children[found.done % 2]]
            for child in victims:
                child.signal(signal.SIGKILL)
            outcomes = [child.wait() for child in children]
            if all(outcome.code == 0 for outcome in outcomes):
                break
            found.done += 1
            found.inside += bool(half_written(run_dir))
            for child, outcome in zip(children, outcomes, strict=True):
                codes = (-signal.SIGKILL, 0) if child in victims else (*LEFT, 0)
                if fault := _fault(outcome, codes):
                    found.faults.append(f"two workers: {fault}")
        last = [child.wait() for child in job(base, run_dir)]
        faults = [fault for outcome in last if (fault := _fault(outcome, (0,)))]
        found.faults += faults
        if not faults:
            found.compared += 1
            found.different += differences(run_dir, whole)
            shutil.rmtree(run_dir)
        say(
            f"two workers: {found.done} of {count}, {found.different} differences,"
            f" {len(found.faults)} faults"
        )
    return found
