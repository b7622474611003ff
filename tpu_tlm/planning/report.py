"""The text form of a plan."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tpu_tlm.planning.chips import GIB
from tpu_tlm.planning.compiler import Allocation, Refused
from tpu_tlm.planning.figures import NOTE, Figures
from tpu_tlm.planning.search import SearchResult


def layer(operation: str) -> str:
    """The place in the model in an operation's name:

    `model_1/encoder_1/0_1/attn_1/Softmax` -> `encoder/0/attn/Softmax`.
    """
    name = re.sub(r"_\d+(?=/)", "", operation.partition(";")[0])
    return name.replace("model/", "", 1) or "unnamed"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def _allocations(found: Sequence[Allocation], count: int = 5) -> list[str]:
    return [f"  {_gib(a.bytes):>10}  {layer(a.operation)}  {a.shape}" for a in found[:count]]


def refusal(refused: Refused, batch: int, where: str) -> str:
    """The figures of a program that does not fit."""
    lines = [
        f"does not fit  a batch of {batch} needs {_gib(refused.hbm)} of the "
        f"{_gib(refused.limit)} of a chip of {where}, by the compiler",
        f"              of these {_gib(refused.arguments)} are weights, optimizer and batch; the "
        "largest others:",
        *_allocations(refused.allocations),
    ]
    return "\n".join(lines)


def _how(f: Figures) -> str:
    if not f.extrapolated:
        return "compiled"
    return f"extrapolated from {' and '.join(str(n) for n in f.layers_compiled)} layers"


def full(f: Figures) -> str:
    """All figures of one step."""
    p, chip, chips = f.program, f.slice_.chip, f.slice_.chips
    missing = ", ".join(
        f"{round(count)} {kind}" for kind, count in sorted(p.missing.items()) if round(count)
    )
    steps = [f"{1e3 * f.computing:.2f} ms of cycles"]
    if p.floor:
        steps.append(f"at least {1e3 * p.floor:.2f} ms for instructions without an estimate")
    if f.reducing:
        steps.append(
            f"at least {1e3 * f.reducing:.2f} ms for {p.reduced / 1e6:.0f} MB of all-reduce at "
            f"{chip.links:.0f} GB/s"
        )
    each = f", {f.batch // chips} a chip" if chips > 1 else ""
    return "\n".join(
        [
            f"step          batch {f.batch} of {f.length} tokens on {f.slice_.name}{each} "
            f"({_how(f)})",
            f"memory        {'fits' if f.fits else 'DOES NOT FIT'}: {_gib(p.hbm)} of "
            f"{_gib(chip.hbm)} a chip: "
            f"{_gib(p.state)} weights, optimizer and batch; {_gib(p.working)} working memory; "
            f"{_gib(p.code)} code",
            f"arithmetic    {f.flops:.3e} FLOPs a step (three times the forward matrix products); "
            f"the compiler counts {p.flops:.3e} a chip, a loop's body once",
            f"traffic       {p.accessed:.3e} bytes a chip as the compiler counts them, on-core "
            "memory "
            "included",
            f"cycles        {p.cycles:,.0f} estimated, {chip.clock / 1e9:g} GHz; without an "
            "estimate: "
            f"{missing or 'nothing'}",
            f"time          {1e3 * f.seconds:.2f} ms a step = {' + '.join(steps)}",
            f"speed         {f.tokens / f.seconds:,.0f} tokens/s; MFU {100 * f.mfu:.1f} % = "
            f"{f.flops:.3e} FLOPs / ({1e3 * f.seconds:.2f} ms x {chips} x {chip.peak:.3g} FLOP/s)",
            f"              {NOTE}",
        ]
    )


def whole_run(f: Figures, steps: int) -> str:
    """What all steps of a run take."""
    return (
        f"run           {steps:,} steps take at least {f.seconds * steps / 3600:.1f} hours, "
        f"{f.tokens * steps:.3g} tokens; input, saves and evaluations are not counted"
    )


def searched(found: SearchResult, chips: int) -> str:
    """The largest batch."""
    above = f"; {found.refused} does not fit" if found.refused else "; nothing larger was tried"
    if found.best is None:
        return f"largest batch none that was tried fits{above}"
    each = f", {found.best.batch // chips} a chip" if chips > 1 else ""
    return (
        f"largest batch {found.best.batch}{each}: {_gib(found.best.program.hbm)} "
        f"({_how(found.best)}){above}"
    )


HEAD = (
    f"{'batch':>7} {'length':>6} {'micro':>5} {'memory':>10} {'ms/step':>9} "
    f"{'tokens/s':>11} {'MFU':>6}  from"
)


def row(batch: int, length: int, accum: int, answer: Figures | Refused) -> str:
    """A row of the sweep's table; `accum`: micro-batches per step."""
    begin = f"{batch:7} {length:6} {accum:5} "
    if isinstance(answer, Refused):
        return f"{begin}{_gib(answer.hbm):>10} {'-':>9} {'-':>11} {'-':>6}  refused by the compiler"
    note = "" if answer.fits else ": too much memory"
    rate = answer.tokens / answer.seconds
    speed = f"{1e3 * answer.seconds:9.2f} {rate:11,.0f} {100 * answer.mfu:5.1f}%"
    return f"{begin}{_gib(answer.program.hbm):>10} {speed}  {_how(answer)}{note}"
