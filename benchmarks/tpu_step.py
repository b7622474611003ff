"""Our training step as the TPU compiler sees it, and where it says the cycles go.

In the environment of `make plan-env`: .venv-plan/bin/python -m benchmarks.tpu_step [--size base]
[--by fusion]. These are estimates of the compiler, not measurements. Flags that this script does
not know are training flags of the package.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

from tpu_tlm.config import Config, cli
from tpu_tlm.planning import environment
from tpu_tlm.planning.chips import GIB, parse_slice
from tpu_tlm.planning.cycles import simplified

SIZES = {
    "tiny": {"d_model": 128, "d_ff": 512, "num_heads": 2, "num_layers": 2},
    "base": {"d_model": 768, "d_ff": 3072, "num_heads": 12, "num_layers": 12},
    "large": {"d_model": 1024, "d_ff": 4096, "num_heads": 16, "num_layers": 24},
}
# BERT as published: learned positions, norms after, a dense layer before the output, token table
# tied.
BERT = {
    "position_encoding": ["learned"],
    "embeddings_reduction": "sum-layer-norm",
    "rpr_k": [0],
    "transformer_type": "post-layer-norm",
    "mlm_head": "bert",
    "output_bias": True,
    "precision": "bfloat16",
    "train_dir": "-",
    "run_dir": "-",
}


def main() -> None:
    """Compile one step for one chip (or one replica of several) and print a line of figures;
    `--by` prints the costs in groups too.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--size", choices=list(SIZES), default="base")
    parser.add_argument("--batch", type=int, default=32, help="rows per chip and step")
    parser.add_argument("--length", type=int, default=128, help="tokens per row")
    parser.add_argument("--vocab", type=int, default=30522)
    parser.add_argument(
        "--layers", type=int, help="compile fewer layers than the size has: much quicker"
    )
    parser.add_argument("--chip", default="v5e-1", help="slice, such as v5e-8 or v6e-1")
    parser.add_argument(
        "--by",
        choices=["fusion", "op_name", "layer", "part", "category", "opcode"],
        help="print cycles in groups",
    )
    parser.add_argument("--top", type=int, default=30, help="groups to print")
    parser.add_argument(
        "--json", type=Path, help="write the figures, as `plan --json` has them, to this file"
    )
    parser.add_argument(
        "--hlo", type=Path, help="write the optimized program, or the refusal, to this file"
    )
    parser.add_argument(
        "--from_hlo",
        type=Path,
        help="read such a file instead of compiling: --by another way in a second",
    )
    known, flags = parser.parse_known_args()
    if known.from_hlo:
        _groups(known, known.from_hlo.read_text())
        return
    environment.prepare()
    from tpu_tlm.planning.compiler import Refused, compile_for
    from tpu_tlm.planning.cycles import costs
    from tpu_tlm.planning.figures import Figures, program_of
    from tpu_tlm.planning.lower import lower
    from tpu_tlm.planning.stand_in import batch_specs, fitting
    from tpu_tlm.training.setup import experiment_of, spec_of

    values = {**BERT, **SIZES[known.size], "batch_size": known.batch}
    values |= vars(cli.build_parser("benchmarks.tpu_step", "", Config.groups()).parse_args(flags))
    values.pop("config")
    if known.layers:
        values["num_layers"] = known.layers
    everything = Config(*cli.build(Config.groups(), values, "benchmarks.tpu_step"))
    slice_ = parse_slice(known.chip)
    corpora = fitting(everything, known.vocab, known.length, None)
    began = time.perf_counter()
    step = experiment_of(everything, corpora, 100_000, everything.runtime.precision).step
    lowered = lower(step, batch_specs(corpora.train, known.batch), slice_.chips, slice_.name)
    lowering = time.perf_counter() - began
    compiled = compile_for(lowered, slice_)
    seconds = time.perf_counter() - began - lowering
    name = f"{known.size} {values['num_layers']} layers {known.batch}x{known.length} {slice_.name}"
    row = {"size": known.size, "layers": values["num_layers"], "grad_accum": step.grad_accum}
    if isinstance(compiled, Refused):
        if known.hlo:
            known.hlo.write_text(compiled.message)
        if known.json:
            told = {
                "tpu": slice_.name,
                "batch": known.batch,
                "length": known.length,
                "fits": False,
                "hbm_bytes": compiled.hbm,
            }
            known.json.write_text(json.dumps({**row, **told}, indent=1) + "\n")
        print(f"{name}: does not fit, {compiled.hbm / GIB:.2f} GiB of {compiled.limit / GIB:.2f}")
        for part in compiled.allocations[: known.top]:
            print(f"  {part.bytes / GIB:6.2f} GiB {part.shape} {part.operation}")
        return
    found = costs(compiled.text)
    ours = step.objective.flops(spec_of(everything, corpora)) * known.batch
    milliseconds = 1e3 * found.cycles / slice_.chip.clock
    print(
        f"{name}: HBM {compiled.hbm / GIB:.2f} GiB (temporary {compiled.temporary / GIB:.2f}), "
        f"{ours / 1e9:.0f} GFLOP by our formula, "
        f"{compiled.flops / 1e9:.0f} by the compiler, {found.cycles:,} cycles, {milliseconds:.2f} "
        "ms, "
        f"{100 * ours / slice_.chip.peak / milliseconds * 1e3:.1f} % of peak; "
        "without an estimate: "
        f"{', '.join(f'{n} {what}' for what, n in found.missing().items()) or 'nothing'}, "
        f"at least {1e3 * found.floor(slice_.chip):.2f} ms and "
        f"{1e3 * slice_.reducing(found.reduced):.2f} ms of all-reduce; "
        f"lowered in {lowering:.0f} s, compiled in {seconds:.0f} s"
    )
    if known.json:
        spec, rows = spec_of(everything, corpora), known.batch * slice_.chips
        program, tokens = program_of(compiled, slice_), step.objective.tokens(spec) * rows
        figures = Figures(
            slice_,
            rows,
            known.length,
            tokens,
            ours * slice_.chips,
            program,
            (values["num_layers"],),
            seconds,
        )
        known.json.write_text(json.dumps({**row, **figures.as_values()}, indent=1) + "\n")
    if known.hlo:
        known.hlo.write_text(compiled.text)
    if known.by:
        _groups(known, compiled.text)


# A part of the step, and what stands in the names of its operations; the first that fits counts.
# What attention's own gradient does has no layer in its name.
PARTS = (
    ("optimizer and clipping", r"optimizer/|clip/"),
    ("embeddings", r"embeddings"),
    ("head and loss", r"head"),
    ("feed-forward: {}", r"/ffn/"),
    ("projections: {}", r"/qkv/|/w_O/"),
    ("norms, residuals", r"/ln\d?/"),
    ("scores, softmax, mixing", r"/attn/|gradient_tape/(while/)?MatMul|^(while/)?sub$"),
    ("sums of micro-batches", r"while/Add"),
)


def part_of(operation: str, product: bool) -> str:
    """The part of a BERT-like step that an operation belongs to, by its name."""
    name = simplified(operation)
    for part, pattern in PARTS:
        if re.search(pattern, name):
            return part.format("products" if product else "other passes")
    return "other"


def _groups(known: argparse.Namespace, text: str) -> None:
    from collections import Counter

    from tpu_tlm.planning.cycles import Cost, costs

    found, clock = costs(text), parse_slice(known.chip).chip.clock

    def group(cost: Cost) -> str:
        if known.by in ("category", "opcode"):
            return str(getattr(cost, known.by))
        operation = cost.operation.partition(";")[0]
        if known.by == "part":
            return part_of(operation, cost.category == "matrix product")
        if known.by == "layer":
            return simplified(operation)
        return (
            operation
            if known.by == "op_name"
            else f"{cost.name} [{cost.category}] {cost.shape[:80]} {cost.operation[:120]}"
        )

    cycles: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for cost in found.estimated:
        cycles[group(cost)] += cost.total
        times[group(cost)] += cost.times
    for cost in found.unknown:
        moved = f"at least {cost.bytes / 1e6:.1f} MB"
        print(
            f"no estimate: {cost.times}x {cost.name} [{cost.category}] {moved} {cost.shape[:80]} "
            f"{cost.operation}"
        )
    for name, total in cycles.most_common(known.top):
        print(
            f"{100 * total / found.cycles:5.1f}% {1e3 * total / clock:8.3f} ms {times[name]:5}x  "
            f"{name}"
        )


if __name__ == "__main__":
    main()
