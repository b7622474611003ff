"""A plan from start to end: compile, search or sweep, and print text or JSON."""

from __future__ import annotations

import json
import math
import time

from tpu_tlm.config import PlanConfig
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.planning import report
from tpu_tlm.planning.chips import GIB
from tpu_tlm.planning.compiler import Refused
from tpu_tlm.planning.figures import NOTE, Figures
from tpu_tlm.planning.search import fits, largest, needs
from tpu_tlm.planning.subject import Answer, Subject
from tpu_tlm.training import setup
from tpu_tlm.training.micro_batches import AUTO, candidates

# Micro-batches of fewer tokens on a chip are not tried.
_LEAST_TOKENS = 1024


def plan_batch(subject: Subject, plan: PlanConfig) -> int:
    """Compile the step for the batch size, print its figures, and search the largest batch.

    Returns 0. Raises `TlmError` when the step does not fit.
    """
    batch, slice_ = subject.options.data.batch_size, subject.slice_
    answer: Answer
    if subject.options.optim.grad_accum == AUTO:
        subject, answer = with_best_accum(subject, plan)
        if not plan.json:
            print(f"micro-batches {subject.options.optim.grad_accum} (--grad_accum auto)")
    else:
        answer = (subject.quick if plan.quick else subject.compile)(batch)
    compiled = subject.quick if plan.quick else subject.compile
    steps = subject.steps
    if not plan.json:
        if steps is not None and fits(answer):
            print(report.whole_run(answer, steps))
        print(
            report.refusal(answer, batch, slice_.name)
            if isinstance(answer, Refused)
            else report.full(answer),
            flush=True,
        )
    found = None
    if plan.search:
        found = largest(batch, answer, slice_.chip.hbm, subject.unit, compiled, subject.extrapolate)
    best = None if found is None else found.best
    if plan.json:
        values: dict[str, object] = {
            "step": {
                **_values(answer, batch, subject.length, slice_.name),
                "grad_accum": subject.options.optim.grad_accum,
            },
            "largest": best.as_values() if best else None,
        }
        if steps is not None and fits(answer):
            values["run"] = {"steps": steps, "hours": answer.seconds * steps / 3600}
        print(json.dumps(values | {"refused": found.refused if found else None}, indent=2))
    elif found is not None:
        print(report.searched(found, slice_.chips))
        if best is not None and best.batch != batch:
            print(f"\n{report.full(best)}")
    if not fits(answer):
        most = f"; the largest batch that was found to fit is {best.batch}" if best else ""
        raise TlmError(
            f"--batch_size {batch} does not fit a {slice_.name}: it needs "
            f"{needs(answer) / GIB:.2f} GiB of the "
            f"{slice_.chip.hbm_gib:.2f} GiB of a chip{most}; --recompute and --grad_accum need less"
        )
    return 0


def with_best_accum(subject: Subject, plan: PlanConfig) -> tuple[Subject, Answer]:
    """The subject with the fastest number of micro-batches that fits (`--grad_accum auto`), and its
    figures; where none fits, with the largest.

    Numbers are tried upwards until the step becomes slower. Programs of few layers are compared
    where the model has such, and the whole model is compiled once, unless `--quick`.
    """
    batch = subject.options.data.batch_size
    setup.check_batch(subject.with_accum(1).options, subject.slice_.chips)
    rows = batch // subject.slice_.chips
    numbers = candidates(rows)
    least = max(1, rows * subject.length // _LEAST_TOKENS)
    if setup.objective_class(subject.options.run.objective).cross_replica:
        least = 1  # another number would compare other examples
    tried: dict[int, Answer] = {}
    for number in [n for n in numbers if n <= least] or numbers[:1]:
        answer = tried[number] = subject.with_accum(number).quick(batch)
        time_ = f"{1e3 * answer.seconds:.1f} ms" if fits(answer) else "does not fit"
        subject.say(f"--grad_accum {number}: {time_}")
        fitting = [a.seconds for a in tried.values() if fits(a)]
        if fits(answer) and answer.seconds > min(fitting):
            break
    fast = {n: a.seconds for n, a in tried.items() if fits(a)}
    best = min(fast, key=lambda n: fast[n]) if fast else max(tried)
    found = subject.with_accum(best)
    return found, tried[best] if plan.quick else found.compile(batch)


def _values(answer: object, batch: int, length: int, tpu: str) -> dict[str, object]:

    if isinstance(answer, Refused):
        largest = [
            {"bytes": a.bytes, "operation": a.operation, "shape": a.shape}
            for a in answer.allocations
        ]
        sizes = {
            "hbm_bytes": answer.hbm,
            "hbm_limit_bytes": answer.limit,
            "state_bytes": answer.arguments,
        }
        return {
            "tpu": tpu,
            "batch": batch,
            "length": length,
            "fits": False,
            **sizes,
            "largest_allocations": largest,
        }
    assert isinstance(answer, Figures)
    return answer.as_values()


def plan_sweep(subject: Subject, plan: PlanConfig) -> int:
    """Print a table of figures over batches, lengths and micro-batches; returns 0."""

    if subject.options.optim.grad_accum == AUTO and not plan.sweep_accum:
        raise UsageError("--sweep --grad_accum auto: give the numbers to try by --sweep_accum")
    lengths, accums = (
        plan.sweep_lengths or [subject.length],
        plan.sweep_accum or [subject.options.optim.grad_accum],
    )
    given, unit = subject.options.data.batch_size, subject.slice_.chips * math.lcm(*accums)
    batches = plan.sweep_batches or sorted(
        {max(unit, int(given * share) // unit * unit) for share in (0.25, 0.5, 1.0, 2.0)}
    )
    if uneven := [batch for batch in batches if batch % unit]:
        raise UsageError(
            f"--sweep_batches {uneven[0]}: must be a multiple of {unit}, to be divided among "
            "chips and micro-batches"
        )
    rows = [(length, batch, accum) for length in lengths for batch in batches for accum in accums]
    values, began = [], time.monotonic()
    if not plan.json:
        print(report.HEAD, flush=True)
    for done, (length, batch, accum) in enumerate(rows):
        one = subject.of_length(length).with_accum(accum)
        answer = one.quick(batch) if plan.quick else one.compile(batch)
        if plan.json:
            values.append(
                {**_values(answer, batch, length, subject.slice_.name), "grad_accum": accum}
            )
        else:
            print(report.row(batch, length, accum, answer), flush=True)
        left = (time.monotonic() - began) / (done + 1) * (len(rows) - done - 1)
        subject.say(f"{done + 1} of {len(rows)} rows, about {left / 60:.0f} min left")
    if plan.json:
        print(json.dumps({"table": values}, indent=2))
    else:
        print(NOTE)
    return 0
