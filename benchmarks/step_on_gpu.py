"""The exported training step, run by JAX without TensorFlow, against a plain JAX and a plain
PyTorch step of the same model.

    python -m benchmarks.step_on_gpu DIR [--programs ours jax torch torch-compile] [--rounds 10]
    [--steps 20]

DIR is what `python -m benchmarks.step_export` wrote, perhaps on another machine. Needs NumPy, JAX
and, for its two programs, PyTorch; runs on whatever device they find (JAX_PLATFORMS=cpu: the
processor). Programs are processes of their own and take turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # so that `python benchmarks/step_on_gpu.py` finds it all too

from benchmarks.gpu.exported import Exported, Manifest, read
from benchmarks.gpu.program import Report, read_report
from benchmarks.harness import Contender, Result, alternate
from tpu_tlm.devices.peaks import peak_flops
from tpu_tlm.errors import TlmError, UsageError, run_command

TENSORFLOW = "TensorFlow, on a processor"
# Key -> name, target, further arguments, the package it needs.
PROGRAMS: dict[str, tuple[str, str, tuple[bool, ...], str]] = {
    "ours": ("tpu_tlm's step, lowered by TensorFlow", "benchmarks.gpu.lowered:build", (), "jax"),
    "jax": ("plain JAX", "benchmarks.gpu.plain_jax:build", (), "jax"),
    "torch": ("plain PyTorch", "benchmarks.gpu.plain_torch:build", (False,), "torch"),
    "torch-compile": (
        "plain PyTorch, torch.compile",
        "benchmarks.gpu.plain_torch:build",
        (True,),
        "torch",
    ),
}


def chosen(asked: Sequence[str] | None, exported: Exported) -> tuple[list[str], list[str]]:
    """Keys of the programs to run, and why others of the usual three are left out.

    `UsageError` when one that was asked for cannot run.
    """
    keys, left = [], []
    for key in asked or ("ours", "jax", "torch"):
        name, _, _, package = PROGRAMS[key]
        why = ""
        if importlib.util.find_spec(package) is None:
            why = f"{package} is not installed (python -m pip install {package})"
        elif key != "ours" and not exported.manifest.plain:
            why = (
                f"it knows BERT with AdamW only, and this export has {exported.manifest.not_plain}"
            )
        if not why:
            keys.append(key)
        elif asked or key == "ours":
            raise UsageError(f"{name} cannot run: {why}")
        else:
            left.append(f"{name} is left out: {why}")
    return keys, left


def same_device(reports: Mapping[str, Report]) -> str:
    """What all programs ran on. `TlmError` when they did not run on the same."""
    platforms = {r.platform for r in reports.values()}
    if len(platforms) > 1:
        told = ", ".join(f"{name}: {r.device}" for name, r in reports.items())
        raise TlmError(
            f"the programs ran on different devices ({told}): install a CUDA build of the others "
            "(jax[cuda13]), or JAX_PLATFORMS=cpu"
        )
    return next(iter(reports.values())).device


def heading(device: str, platform: str, manifest: Manifest, peak: float | None) -> str:
    """What ran, and on what."""
    caution = " (a processor: these times say nothing about a GPU)" if platform == "cpu" else ""
    told = f"a peak of {peak / 1e12:.0f} TFLOP/s" if peak else "a peak that is not known (--peak)"
    model = (
        f"{manifest.parameters:,} parameters, dropout {manifest.model['dropout']}, "
        f"{manifest.flops / 1e12:.3g} TFLOP a step by formula"
    )
    return (
        f"device: {device}{caution}, {told}\n{model}; lowered by TensorFlow "
        f"{manifest.versions['tensorflow']}"
    )


def speed_table(
    results: Sequence[Result], reports: Mapping[str, Report], manifest: Manifest, peak: float | None
) -> str:
    """Median step (lowest to highest), tokens/s and MFU of the medians, speed beside the first
    program, memory, time to the first step.
    """
    title = f"batch {manifest.rows} x {manifest.length}, {manifest.precision}"
    lines = [
        f"| {title} | ms/step | tokens/s | MFU | speed beside the first | device memory | to "
        "first step |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        report, seconds = reports[result.name], statistics.median(result.seconds)
        mfu = "unknown peak" if peak is None else f"{100 * manifest.flops / seconds / peak:.1f} %"
        memory = "not told" if report.peak_bytes is None else f"{report.peak_bytes / 2**30:.2f} GiB"
        span = f"{1e3 * min(result.seconds):.2f} to {1e3 * max(result.seconds):.2f}"
        speed = (
            f"{statistics.median(result.ratios):.2f} ({min(result.ratios):.2f} to "
            f"{max(result.ratios):.2f})"
        )
        lines.append(
            f"| {result.name} | {1e3 * seconds:.2f} ({span}) | {manifest.tokens / seconds:,.0f} | "
            f"{mfu} | {speed} | {memory} "
            f"| {report.start_seconds:.1f} s |"
        )
    return "\n".join(lines)


def loss_table(losses: Mapping[str, Sequence[float]]) -> str:
    """Losses of the first steps beside one another."""
    steps = range(max(len(series) for series in losses.values()))
    lines = [
        f"| loss of step | {' | '.join(str(i + 1) for i in steps)} |",
        "|---|" + "---|" * len(steps),
    ]
    lines += [
        f"| {name} | {' | '.join(f'{loss:.6f}' for loss in series)} |"
        for name, series in losses.items()
    ]
    return "\n".join(lines)


def furthest(reference: Sequence[float], losses: Sequence[float]) -> float:
    """The largest relative difference of the steps that both have; NaN where a loss is not
    finite.
    """
    apart = [abs(a - b) / abs(a) for a, b in zip(reference, losses, strict=False)]
    return max(apart) if all(map(math.isfinite, apart)) else math.nan


def judge(
    losses: Mapping[str, Sequence[float]], manifest: Manifest, tolerance: float
) -> tuple[list[str], list[str]]:
    """A sentence per program on how far its losses are from the reference's, and those of programs
    that are further than the tolerance.

    The reference is TensorFlow where the export has its losses, else the first program. With
    dropout, only this package's step draws the same masks as TensorFlow, so only it is judged.
    """
    names = list(losses)
    reference, told, bad = names[0], [], []
    for name in names[1:]:
        apart = furthest(losses[reference], losses[name])
        comparable = not manifest.model["dropout"] or name == PROGRAMS["ours"][0]
        line = f"{name}: losses up to {apart:.1e} from those of {reference}"
        told.append(line + ("" if comparable else " (dropout of its own)"))
        if comparable and not apart <= tolerance:
            bad.append(line)
    return told, bad


def tolerance_of(manifest: Manifest, platform: str) -> float:
    """Relative difference of losses that arithmetic alone explains: bfloat16, or a GPU's TF32,
    against float32.
    """
    return 1e-4 if manifest.precision == "float32" and platform == "cpu" else 1e-2


def measure(
    exported: Exported, keys: Sequence[str], rounds: int, steps: int
) -> tuple[list[Result], dict[str, Report]]:
    """Run the programs in turn. `TlmError` when one of them dies (its own words are above)."""
    os.environ.setdefault(
        "XLA_PYTHON_CLIENT_PREALLOCATE", "false"
    )  # the programs stand side by side in the device's memory
    first = max(1, len(exported.manifest.losses))
    with tempfile.TemporaryDirectory() as scratch:
        files = {PROGRAMS[key][0]: Path(scratch) / f"{key}.json" for key in keys}
        contenders = []
        for key in keys:
            name, target, more, _ = PROGRAMS[key]
            contenders.append(
                Contender(
                    name,
                    target,
                    (str(exported.directory.resolve()), str(files[name]), first, *more),
                )
            )
        try:
            results = alternate(contenders, rounds, steps)
        except RuntimeError as error:
            raise TlmError(f"{error}; what it said is above") from None
        return results, {name: read_report(file) for name, file in files.items()}


def main(argv: list[str] | None = None) -> int:
    """Measure, print the tables; exit code 1 when losses that must agree do not."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("directory", type=Path, help="what benchmarks.step_export wrote")
    parser.add_argument(
        "--programs",
        nargs="+",
        choices=list(PROGRAMS),
        help="default: ours jax torch, as far as they are installed",
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20, help="steps of a program per round")
    parser.add_argument(
        "--peak", type=float, help="peak TFLOP/s of the device, where this package does not know it"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help="relative difference of losses; default 1e-4 in float32 on a processor, else 1e-2",
    )
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file")
    given = parser.parse_args(argv)
    for name in ("rounds", "steps"):
        if getattr(given, name) < 1:
            raise UsageError(f"--{name} {getattr(given, name)}: must be 1 or more")
    exported = read(given.directory)
    manifest = exported.manifest
    keys, left = chosen(given.programs, exported)
    results, reports = measure(exported, keys, given.rounds, given.steps)
    device = same_device(reports)
    platform = next(iter(reports.values())).platform
    peak = given.peak * 1e12 if given.peak else peak_flops(device, manifest.precision)
    print(heading(device, platform, manifest, peak))
    print(f"run with {', '.join(sorted({r.versions for r in reports.values()}))}\n")
    print(speed_table(results, reports, manifest, peak) + "\n")
    losses: dict[str, Sequence[float]] = {TENSORFLOW: manifest.losses} if manifest.losses else {}
    losses |= {name: report.losses for name, report in reports.items()}
    print(loss_table(losses) + "\n")
    sentences, bad = judge(losses, manifest, given.tolerance or tolerance_of(manifest, platform))
    print("\n".join([*sentences, *left]), flush=True)
    if given.json:
        written = {
            "device": device,
            "platform": platform,
            "peak": peak,
            "losses": losses,
            "model": manifest.model,
            "flops": manifest.flops,
        }
        written["programs"] = {
            r.name: {"rounds": asdict(r), **asdict(reports[r.name])} for r in results
        }
        given.json.write_text(json.dumps(written, indent=1) + "\n")
    if bad:
        raise TlmError(f"losses that must agree do not: {'; '.join(bad)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
