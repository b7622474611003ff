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
from tpu_tlm.planning.subject import Subject


def plan_batch(subject: Subject, plan: PlanConfig) -> int:
    """Compile the step for the batch size, print its figures, and search the largest batch.

    Returns 0. Raises `TlmError` when the step does not fit.
    """
    batch, slice_ = subject.options.data.batch_size, subject.slice_
    compiled = subject.quick if plan.quick else subject.compile
    answer = compiled(batch)
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
            "step": _values(answer, batch, subject.length, slice_.name),
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
