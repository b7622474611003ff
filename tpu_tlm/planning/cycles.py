"""Where a compiled program's time goes, by the compiler's estimate for each instruction."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tpu_tlm.planning.chips import Chip


@dataclass(frozen=True)
class Cost:
    """One instruction.

    `category`: the kind of work; `times`: how often it runs; `cycles`: the compiler's estimate for
    one run, 0 where it has none; `bytes`: in that case the least that it moves to and from memory,
    or sums over the links in an all-reduce.
    """

    name: str
    opcode: str
    category: str
    operation: str
    shape: str
    cycles: int
    times: int = 1
    bytes: int = 0

    @property
    def total(self) -> int:
        """Cycles over all its runs."""
        return self.cycles * self.times


@dataclass(frozen=True)
class Costs:
    """The instructions with an estimate, and those that take time and have none."""

    estimated: tuple[Cost, ...]
    unknown: tuple[Cost, ...]

    @property
    def cycles(self) -> int:
        """Sum of all estimates, as if nothing ran in parallel."""
        return sum(cost.total for cost in self.estimated)

    @property
    def reduced(self) -> int:
        """Bytes summed by all-reduces."""
        return sum(
            cost.bytes * cost.times for cost in self.unknown if cost.category == "all-reduce"
        )

    def missing(self) -> dict[str, int]:
        """Category -> number of instructions without an estimate."""
        return dict(Counter(cost.category for cost in self.unknown for _ in range(cost.times)))

    def floor(self, chip: Chip) -> float:
        """Lower bound in seconds of the instructions without an estimate, all-reduces aside.

        Their bytes at the memory's bandwidth.
        """
        moved = sum(
            cost.bytes * cost.times for cost in self.unknown if cost.category != "all-reduce"
        )
        return moved / (chip.bandwidth * 1e9)


@dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    line: str


_Computations = dict[str, dict[str, _Instruction]]

_LINE = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (\(.*?\)|\S+) ([a-z][\w-]*)\(")
_HEAD = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\{\s*$")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# What the compiler writes where its model of a fusion fails: the largest int64.
_NO_ESTIMATE = 2**63 - 1
_NAME = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# One array of a shape: f32[8,128]{1,0:T(8,128)S(1)}, where S(1) is memory inside the core.
_ARRAY = re.compile(r"\b(pred|[a-z]+?(\d+)\w*)\[([\d,]*)\](\{[^{}]*\})?")
_MOVES = {
    "copy",
    "transpose",
    "bitcast",
    "reshape",
    "slice",
    "pad",
    "concatenate",
    "broadcast",
    "parameter",
    "constant",
    "tuple",
}
_MOVES |= {
    "dynamic-slice",
    "dynamic-update-slice",
    "get-tuple-element",
    "copy-start",
    "copy-done",
    "convert",
}
# Instructions that take time even without an estimate. Copies between memories run in parallel
# with other work, and scalars cost nothing.
_MOVERS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "scatter",
    "gather",
    "sort",
    "rng-bit-generator",
)
_TIMED = {*_MOVERS, "all-reduce-start", "fusion", "convolution", "dot", "topk", "custom-call"}
_BOOKKEEPING = re.compile(
    r'custom_call_target="(ConcatBitcast|X64\w+|AssumeGather\w+|GatherScatter\w+|'
    r'AllocateBuffer|Sharding)"'
)


def _parse(text: str) -> tuple[_Computations, str]:
    found: _Computations = {}
    entry, current = "", None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = found[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (match := _LINE.match(line)):
            current[match[1]] = _Instruction(match[1], match[2], match[3], line)
    return found, entry


def _operands(instruction: _Instruction) -> list[str]:
    inside = instruction.line.split(f" {instruction.opcode}(", 1)[1].split(")", 1)[0]
    return re.findall(r"%([^\s,()]+)", inside)


def _constant(name: str, where: dict[str, _Instruction]) -> int | None:
    """The value of a constant scalar, followed through copies; None where it is computed."""
    while name in where and where[name].opcode in ("copy", "bitcast"):
        (name,) = _operands(where[name])
    found = re.search(r" constant\((-?\d+)\)", where[name].line) if name in where else None
    return int(found[1]) if found else None


def _rounds(
    loop: _Instruction, where: dict[str, _Instruction], computations: _Computations
) -> int | None:
    """Trip count of a loop: as the compiler states it, or of a constant counting loop; else
    None.
    """
    if trips := _TRIPS.search(loop.line):
        return int(trips[1])
    condition = computations[re.findall(r"condition=%?([^\s,]+)", loop.line)[0]]
    root = next(one for one in condition.values() if one.line.lstrip().startswith("ROOT"))
    start = where.get(_operands(loop)[0])
    if (
        root.opcode != "compare"
        or "direction=LT" not in root.line
        or start is None
        or start.opcode != "tuple"
    ):
        return None
    counter, limit = _operands(root)
    index = re.search(r"index=(\d+)", condition[counter].line) if counter in condition else None
    end = _constant(limit, condition)
    if index is None or end is None:
        return None
    begin = _constant(_operands(start)[int(index[1])], where)
    body = computations[re.findall(r"body=%?([^\s,]+)", loop.line)[0]]
    result = next(one for one in body.values() if one.line.lstrip().startswith("ROOT"))
    after = body.get(_operands(result)[int(index[1])]) if result.opcode == "tuple" else None
    if (
        begin is None
        or after is None
        or after.opcode != "add"
        or 1 not in [_constant(o, body) for o in _operands(after)]
    ):
        return None
    return max(0, end - begin)


def _called(instruction: _Instruction, rounds: int | None) -> Iterator[tuple[str, int]]:
    """Computations that this instruction calls, and how often; fused ones are part of it."""
    line = instruction.line
    if instruction.opcode == "while":
        yield re.findall(r"body=%?([^\s,]+)", line)[0], 1 if rounds is None else rounds
    elif instruction.opcode == "conditional":
        branches = re.search(r"branch_computations=\{([^}]*)\}", line)
        names = (
            branches[1].split(",")
            if branches
            else re.findall(r"(?:true|false)_computation=%?([^\s,]+)", line)
        )
        yield from ((name.strip().lstrip("%"), 1) for name in names)
    elif instruction.opcode == "call" or instruction.opcode.startswith("async-start"):
        if target := re.search(r"(?:to_apply|calls)=%?([^\s,]+)", line):
            yield target[1], 1


def _inside(
    instruction: _Instruction, computations: _Computations
) -> Iterator[tuple[_Instruction, dict[str, _Instruction]]]:
    """The instruction, or those fused into it, each with its computation."""
    target = re.search(r"calls=%?([^\s,]+)", instruction.line)
    if instruction.opcode != "fusion" or target is None or target[1] not in computations:
        yield instruction, {}
        return
    inner = computations[target[1]]
    for one in inner.values():
        for deepest, where in _inside(one, computations):
            yield deepest, where or inner


def _category(opcodes: set[str]) -> str:
    if opcodes & {"convolution", "dot"}:
        return "matrix product"
    for mover in _MOVERS:
        if mover in opcodes or f"{mover}-start" in opcodes:
            return mover
    if opcodes <= _MOVES:
        return "move"
    return "reduction" if opcodes & {"reduce", "reduce-window"} else "elementwise"


def _bytes(shape: str, *, in_core: bool = False) -> int:
    """Bytes of a shape in HBM; arrays in on-core memory count when `in_core`."""
    total = 0
    for kind, bits, sizes, layout in _ARRAY.findall(shape):
        if in_core or "S(1)" not in layout:
            total += math.prod(int(n) for n in sizes.split(",") if n) * (
                1 if kind == "pred" else -(-int(bits) // 8)
            )
    return total


def _least(instruction: _Instruction, category: str, computations: _Computations) -> int:
    """Least bytes that an instruction without an estimate moves.

    Its result, and as much to make it from; for a scatter the changed rows, read and written, and
    the updates.
    """
    if category == "all-reduce":
        inside = _inside(instruction, computations)
        whole = sum(
            _bytes(one.shape, in_core=True) for one, _ in inside if "all-reduce" in one.opcode
        )
        # The compiler's own reduce-scatters and all-gathers send half of what an all-reduce does.
        half = re.search(r"calls=%?(all-reduce-scatter|all-gather)", instruction.line)
        return whole // 2 if half else whole
    if category == "scatter":
        for one, where in _inside(instruction, computations):
            operands = re.findall(
                r"%([^\s,()]+)", one.line.split("scatter(", 1)[-1].split(")", 1)[0]
            )
            if one.opcode == "scatter" and len(operands) == 3 and operands[2] in where:
                return 3 * _bytes(where[operands[2]].shape, in_core=True)
        return 0
    return _bytes(instruction.shape, in_core=True) + _bytes(instruction.shape)


def simplified(operation: str) -> str:
    """An operation's name without layer and copy numbers, so that layers group together."""
    return re.sub(r"(?<![A-Za-z])\d+(?![A-Za-z])", "N", re.sub(r"_\d+(?=/|$)", "", operation))


def costs(text: str) -> Costs:
    """Costs in an optimized HLO text, as libtpu prints it (`estimated_cycles`).

    A loop's body counts by its trip count where it is known, else once; all branches of a
    conditional count. Raises `ValueError` for a text without an entry computation.
    """
    computations, entry = _parse(text)
    if not entry:
        raise ValueError("the text has no ENTRY computation")
    estimated: list[Cost] = []
    unknown: list[Cost] = []
    stack = [(entry, 1)]
    while stack:
        name, times = stack.pop()
        for one in computations[name].values():
            rounds = (
                _rounds(one, computations[name], computations) if one.opcode == "while" else None
            )
            if one.opcode == "while" and rounds is None:
                unknown.append(Cost(one.name, one.opcode, "rounds of a loop", "", "", 0, times))
            stack.extend(
                (called, times * often)
                for called, often in _called(one, rounds)
                if called in computations
            )
            found = _CYCLES.search(one.line)
            cycles = int(found[1]) if found and int(found[1]) < _NO_ESTIMATE else None
            if found is None and (one.opcode not in _TIMED or _BOOKKEEPING.search(one.line)):
                continue
            category = _category({inner.opcode for inner, _ in _inside(one, computations)})
            operation = _NAME.search(one.line)
            where = operation[1] if operation else ""
            if cycles is not None:
                estimated.append(
                    Cost(one.name, one.opcode, category, where, one.shape, cycles, times)
                )
            else:
                unknown.append(
                    Cost(
                        one.name,
                        one.opcode,
                        category,
                        where,
                        one.shape,
                        0,
                        times,
                        _least(one, category, computations),
                    )
                )
    return Costs(tuple(estimated), tuple(unknown))
