"""Where a compiled program's cycles go, by the estimate that its compiler wrote beside each instruction."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cost:
    """One instruction: estimated cycles of one run, how often it runs, what kind of work it is, its operation's name and its shape."""

    name: str
    opcode: str
    category: str
    operation: str
    shape: str
    cycles: int
    times: int = 1

    @property
    def total(self) -> int:
        """Cycles over all its runs."""
        return self.cycles * self.times


@dataclass(frozen=True)
class Costs:
    """The estimated instructions of a program, and how many there are of each opcode that takes time and has no estimate."""

    estimated: tuple[Cost, ...]
    unknown: dict[str, int]

    @property
    def cycles(self) -> int:
        """Sum over all instructions, as if none ran beside another."""
        return sum(cost.total for cost in self.estimated)


@dataclass
class _Instruction:
    name: str
    shape: str
    opcode: str
    line: str


@dataclass
class _Computation:
    instructions: list[_Instruction] = field(default_factory=list)


# Layout and tiling stand in braces behind a shape: f32[8,128]{1,0:T(8,128)S(1)}.
_LAYOUT = re.compile(r"\{[^{}]*\}")
_LINE = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (\(.*?\)|\S+) ([a-z][\w-]*)\(")
_HEAD = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\{\s*$")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_NAME = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_MOVES = {"copy", "transpose", "bitcast", "reshape", "slice", "pad", "concatenate", "broadcast", "parameter", "constant", "tuple"}
_MOVES |= {"dynamic-slice", "dynamic-update-slice", "get-tuple-element", "copy-start", "copy-done", "convert"}
# Whatever takes time of its own, and has no estimate: copies between memories run beside other work, and scalars are nothing.
_TIMED = {"sort", "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "rng-bit-generator", "custom-call"}
_TIMED |= {"fusion", "convolution", "dot", "scatter", "gather", "all-reduce-start", "rng", "topk"}


def _computations(text: str) -> tuple[dict[str, _Computation], str]:
    found: dict[str, _Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = found[head[2]] = _Computation()
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (match := _LINE.match(line)):
            current.instructions.append(_Instruction(match[1], _LAYOUT.sub("", match[2]), match[3], line))
    return found, entry


def _called(instruction: _Instruction) -> Iterator[tuple[str, int]]:
    """Computations that run when this instruction does, and how often; what is fused into it runs as one with it."""
    line = instruction.line
    if instruction.opcode == "while":
        trips = _TRIPS.search(line)
        body = re.search(r"body=%?([^\s,]+)", line)
        if body:
            yield body[1], int(trips[1]) if trips else 1
    elif instruction.opcode == "conditional":
        branches = re.search(r"branch_computations=\{([^}]*)\}", line)
        names = branches[1].split(",") if branches else re.findall(r"(?:true|false)_computation=%?([^\s,]+)", line)
        yield from ((name.strip().lstrip("%"), 1) for name in names)
    elif instruction.opcode == "call" or instruction.opcode.startswith("async-start"):
        if target := re.search(r"(?:to_apply|calls)=%?([^\s,]+)", line):
            yield target[1], 1


def _opcodes(instruction: _Instruction, computations: dict[str, _Computation]) -> set[str]:
    """The opcode, or those of everything that is fused into the instruction."""
    target = re.search(r"calls=%?([^\s,]+)", instruction.line)
    if instruction.opcode != "fusion" or target is None or target[1] not in computations:
        return {instruction.opcode}
    return set().union(*(_opcodes(inner, computations) for inner in computations[target[1]].instructions))


def _category(opcodes: set[str]) -> str:
    if opcodes & {"convolution", "dot"}:
        return "matrix product"
    if opcodes & {"scatter", "gather", "sort", "all-reduce"}:
        return "/".join(sorted(opcodes & {"scatter", "gather", "sort", "all-reduce"}))
    if opcodes <= _MOVES:
        return "move"
    return "reduction" if opcodes & {"reduce", "reduce-window"} else "elementwise"


def simplified(operation: str) -> str:
    """An operation's name without numbers of layers and copies, so that the same work in every layer is one group."""
    return re.sub(r"(?<![A-Za-z])\d+(?![A-Za-z])", "N", re.sub(r"_\d+(?=/|$)", "", operation))


def costs(text: str) -> Costs:
    """Estimates of an optimized HLO text, as libtpu prints it (`estimated_cycles`). A loop's body counts as often as it runs, where the
    compiler knows that; both branches of a conditional count. Raises ValueError for a text without an entry computation."""
    computations, entry = _computations(text)
    if not entry:
        raise ValueError("the text has no ENTRY computation")
    estimated: list[Cost] = []
    unknown: dict[str, int] = defaultdict(int)
    stack = [(entry, 1)]
    while stack:
        name, times = stack.pop()
        for instruction in computations[name].instructions:
            stack.extend((called, times * often) for called, often in _called(instruction) if called in computations)
            cycles = _CYCLES.search(instruction.line)
            if cycles is None:
                if instruction.opcode in _TIMED:
                    unknown[instruction.opcode] += times
                continue
            operation = _NAME.search(instruction.line)
            category = _category(_opcodes(instruction, computations))
            where = operation[1] if operation else ""
            estimated.append(Cost(instruction.name, instruction.opcode, category, where, instruction.shape, int(cycles[1]), times))
    return Costs(tuple(estimated), dict(unknown))
