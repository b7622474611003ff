"""Our training step against the plain hand-written one, in alternation: python -m
benchmarks.step [W1 W2 short] [--rounds N] [--before CHECKOUT] [--keras_hub DIR]
[--without clipping masks ...] [--products] [--bfloat16].

KerasHub is not among the packages of this project:

    pip install --target DIR --no-deps keras-hub==0.32.0 kagglehub kagglesdk==0.1.28
"""

from __future__ import annotations

import argparse

from benchmarks.harness import Contender, alternate, directory_with, table
from benchmarks.workloads import DROPOUTS, PARTS, WORKLOADS


def main() -> None:
    """Print a table per workload; ratios are to the reference, above 1 is faster."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # No `choices`: argparse of Python 3.11 compares the whole default with each of them.
    parser.add_argument("workloads", nargs="*", default=["W1", "W2"], help="W1, W2, short")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--calls", type=int, default=1, help="calls of ten steps per round")
    parser.add_argument(
        "--relative",
        action="store_true",
        help="time our step with Shaw's relative positions (rpr_k 8) too",
    )
    parser.add_argument(
        "--dropouts",
        nargs="+",
        default=[DROPOUTS[0]],
        choices=DROPOUTS,
        help="the reference's dropout; the first is 1.00",
    )
    parser.add_argument(
        "--before",
        type=directory_with("benchmarks"),
        help="another checkout, whose step is timed too",
    )
    parser.add_argument(
        "--keras_hub", type=directory_with("keras_hub"), help="directory with KerasHub, timed too"
    )
    parser.add_argument(
        "--without",
        nargs="+",
        default=[],
        choices=PARTS,
        help="time our step without each of these parts too, and without all of them",
    )
    parser.add_argument(
        "--products", action="store_true", help="time the matrix products of the step alone too"
    )
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="time our step without XLA too, and in bfloat16 with and without it",
    )
    options = parser.parse_args()
    if unknown := [name for name in options.workloads if name not in WORKLOADS]:
        parser.error(f"workload {unknown[0]!r}: not one of {', '.join(WORKLOADS)}")
    for workload in options.workloads:
        contenders = [
            Contender(f"plain step, {d} dropout", "benchmarks.reference_step:build", (workload, d))
            for d in options.dropouts
        ]
        contenders.append(Contender("tpu_tlm", "benchmarks.our_step:build", (workload,)))
        if options.before:
            earlier = options.before
            contenders.append(
                Contender("tpu_tlm before", "benchmarks.our_step:build", (workload,), earlier)
            )
        if options.keras_hub:
            target, packages = "benchmarks.keras_hub_step:build", options.keras_hub
            contenders.append(Contender("KerasHub, jit", target, (workload,), packages=packages))
        if options.relative:
            contenders.append(
                Contender("tpu_tlm, rpr_k 8", "benchmarks.our_step:build", (workload, 8))
            )
        if options.products:
            target = "benchmarks.products_step:build"
            contenders.append(Contender("the matrix products alone", target, (workload,)))
        modes = (("float32", False), ("bfloat16", True), ("bfloat16", False))
        for precision, xla in modes if options.bfloat16 else ():
            name = f"tpu_tlm, {precision}, {'XLA' if xla else 'no XLA'}"
            settings = (workload, 0, (), precision, xla)
            contenders.append(Contender(name, "benchmarks.our_step:build", settings))
        left_out = [[part] for part in options.without]
        if len(left_out) > 1:
            left_out.append(options.without)
        for parts in left_out:
            name = f"tpu_tlm without {', '.join(parts)}"
            contenders.append(Contender(name, "benchmarks.our_step:build", (workload, 0, parts)))
        print(table(workload, alternate(contenders, options.rounds, options.calls)), flush=True)
        print()


if __name__ == "__main__":
    main()
