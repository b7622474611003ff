"""Our training step as a StableHLO program, with values and batches: what `benchmarks.step_on_gpu`
runs without TensorFlow.

    python -m benchmarks.step_export --out DIR [--size base] [--batch 32] [--length 128]
    [--values npz|seed] [training flags]

BERT-base with dropout 0.1 in bfloat16 unless said otherwise. Flags that this script does not know
are training flags of the package. With --check_steps TensorFlow takes the first steps itself on
this machine's processor, so that their losses can be compared.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.tpu_step import BERT, SIZES
from tpu_tlm.config import Config, ModelConfig, cli
from tpu_tlm.errors import TlmError, UsageError, run_command

if TYPE_CHECKING:
    from tpu_tlm.training.step import TrainStep

# A rate that moves the loss within a few steps, the same at all of them, which the plain programs
# need not compute.
OPTIMIZER = {"lr": 1e-4, "lr_schedule": "constant", "warmup_steps": 0}
OBJECTIVES = ("mlm", "clm")
# Options of a model that the plain programs follow, or that do not change what they compute.
SIZED = (
    "d_model",
    "d_ff",
    "num_heads",
    "num_layers",
    "dropout",
    "layer_norm_eps",
    "mask_pad",
    "recompute",
    "weight_init",
    "weight_std",
)


def not_plain(everything: Config) -> str:
    """Why the plain programs do not know this step; empty when they do."""
    config, optim, run = everything.model, everything.optim, everything.run
    bert = {**dataclasses.asdict(ModelConfig()), **BERT}
    other = [
        f"--{k} {v}"
        for k, v in dataclasses.asdict(config).items()
        if k not in SIZED and v != bert[k]
    ]
    if run.objective != "mlm":
        other.append(f"--objective {run.objective}")
    known = {"optimizer": "adamw", "lr_schedule": "constant", "warmup_steps": 0, "grad_accum": 1}
    other += [f"--{k} {getattr(optim, k)}" for k, v in known.items() if getattr(optim, k) != v]
    return ", ".join(other)


def make_batches(
    vocab: int, rows: int, length: int, specials: int, count: int, seed: int
) -> list[dict[str, np.ndarray]]:
    """Batches of ids that are no special ones, the frequent ones as much more frequent as words
    are (log-uniform).
    """
    rng = np.random.default_rng(seed)
    batches = []
    for i in range(count):
        ids = (
            specials
            - 1
            + np.floor(np.exp(rng.random((rows, length)) * np.log(vocab - specials + 1)))
        )
        starts = np.full((rows, -(-length // 8)), 255, np.uint8)
        batches.append(
            {
                "x": ids.astype(np.int32),
                "w": starts,
                "position": np.arange(i * rows, (i + 1) * rows, dtype=np.int64),
            }
        )
    return batches


def masked(step: TrainStep, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the step's own masks make of a batch, for programs that make none:

    `masked/x`, `places`, `labels`, `weights`.
    """
    import tensorflow as tf

    from tpu_tlm.models.layers.counter_rng import Key
    from tpu_tlm.objectives.mlm import MaskedLanguageModeling

    if not isinstance(step.objective, MaskedLanguageModeling):
        return {}
    tensors = {name: tf.constant(array) for name, array in batch.items()}
    made = step.objective.masked(
        tensors, Key.of(step.seed, tensors["position"]).fold("corruption"), True
    )
    return {
        f"masked/{name}": t.numpy()
        for name, t in zip(("x", "places", "labels", "weights"), made, strict=True)
    }


def _take(
    function: Any, state: list[Any], batches: list[dict[str, np.ndarray]], steps: int
) -> list[float]:
    """Mean losses of the first steps, taken by TensorFlow."""
    import tensorflow as tf

    losses = []
    for index in range(steps):
        batch = tf.nest.flatten(
            {name: tf.constant(array) for name, array in batches[index % len(batches)].items()}
        )
        results = function(*state, *batch, tf.constant(index, tf.int64))
        losses.append(float(results[len(state)]) / float(results[len(state) + 1]))
        state = list(results[: len(state)])
    return losses


def export(
    everything: Config,
    out: Path,
    vocab: int,
    length: int,
    *,
    check_steps: int,
    batches: int,
    with_values: bool,
) -> None:
    """Lower the step, take its first steps, write all of it to `out`.

    Raises `UsageError` for a step that is not one of a single text.
    """
    import tensorflow as tf
    from tensorflow.compiler.mlir.stablehlo import stablehlo

    from benchmarks.gpu.exported import Argument, Manifest, digest, write
    from tpu_tlm.models.layers.variables import named_variables
    from tpu_tlm.planning.lower import faults, state_specs, trace
    from tpu_tlm.planning.stand_in import batch_specs, stand_in
    from tpu_tlm.training.setup import check_batch, experiment_of, precision_of, spec_of

    if everything.run.objective not in OBJECTIVES:
        raise UsageError(
            f"--objective {everything.run.objective}: steps of {' and '.join(OBJECTIVES)} can be "
            "exported"
        )
    check_batch(everything, 1)
    corpora, rows = stand_in(vocab, {"x": length}), everything.data.batch_size
    precision = precision_of(everything.runtime, "cpu")
    step = experiment_of(everything, corpora, 100_000, precision).step
    specs = batch_specs(corpora.train, rows)
    function, flat, traced = trace(step, specs, device_type="GPU")
    if found := faults(traced):
        raise TlmError(f"this step cannot be exported: {found[0]}")
    # TensorFlow's lowering for the host: for this step it is, operation for operation, the one for
    # a TPU (docs/gpu.md).
    lowered = function.experimental_get_compiler_ir(*flat)(
        stage="stablehlo_serialized", platform_name="CPU"
    )
    # In the oldest version of StableHLO that is still written, which every JAX of the last years
    # reads.
    program = stablehlo.serialize_portable_artifact_str(lowered, stablehlo.get_minimum_version())

    variables = {path: np.asarray(v) for path, v in named_variables(step.model).items()}
    slots = [
        (path, name) for path, v in variables.items() for name in step.optimizer.slots_of(v.shape)
    ]
    names = [("value", path) for path in variables] + [
        ("slot", f"{path}/{name}") for path, name in slots
    ]
    state = len(names)
    names += [("batch", name) for name in sorted(specs)] + [("index", "index")]
    arguments = tuple(
        Argument(kind, name, tuple(spec.shape), spec.dtype.name, i if i < state else None)
        for i, ((kind, name), spec) in enumerate(zip(names, flat, strict=True))
    )
    sums = [
        f"{name}/{part}" for name in sorted(step.objective.metrics) for part in ("sum", "count")
    ]
    results = (*(f"{kind}/{name}" for kind, name in names[:state]), "loss", "weight", *sums, "norm")
    if len(results) != len(traced.outputs):
        raise TlmError(
            f"the traced step has {len(traced.outputs)} results, its parts {len(results)}: "
            "benchmarks/step_export.py is too old for it"
        )
    made = make_batches(
        vocab,
        rows,
        length,
        len(corpora.tokenizer.special_ids),
        max(batches, check_steps),
        everything.run.seed,
    )
    zeros = [tf.zeros(spec.shape, spec.dtype) for spec in tf.nest.flatten(state_specs(step)[1])]
    losses = _take(function, [*map(tf.constant, variables.values()), *zeros], made, check_steps)
    why = not_plain(everything)
    manifest = Manifest(
        arguments=arguments,
        results=results,
        model=dataclasses.asdict(everything.model),
        optimizer=dataclasses.asdict(everything.optim),
        vocab_size=vocab,
        pad_id=corpora.tokenizer.pad_id,
        seed=everything.run.seed,
        rows=rows,
        length=length,
        precision=precision,
        flops=step.objective.flops(spec_of(everything, corpora)) * rows,
        losses=tuple(losses),
        plain=not why,
        not_plain=why,
        sha256=digest(variables),
        versions={
            "tensorflow": tf.__version__,
            "tpu-tlm": importlib.metadata.version("tpu-tlm"),
            "numpy": np.__version__,
        },
    )
    write(
        out,
        program,
        variables if with_values else None,
        [{**b, **masked(step, b)} for b in made],
        manifest,
    )
    size = sum(file.stat().st_size for file in out.iterdir())
    print(
        f"{out}: {manifest.parameters:,} parameters, batch {rows} x {length}, {precision}, "
        f"{manifest.flops / 1e12:.3g} TFLOP a step, "
        f"{size / 1e6:.1f} MB; losses "
        f"{', '.join(f'{loss:.5f}' for loss in losses) or 'not computed'}"
    )


def main(argv: list[str] | None = None) -> int:
    """Parse, export, say what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, required=True, help="directory to write to")
    parser.add_argument("--size", choices=list(SIZES), default="base")
    parser.add_argument("--batch", type=int, default=32, help="rows per step")
    parser.add_argument("--length", type=int, default=128, help="tokens per row")
    parser.add_argument("--vocab", type=int, default=30522)
    parser.add_argument(
        "--batches", type=int, default=8, help="different batches; they come round again"
    )
    parser.add_argument(
        "--check_steps",
        type=int,
        default=0,
        help="steps that TensorFlow takes here, to have losses to compare with",
    )
    parser.add_argument(
        "--values",
        choices=["npz", "seed"],
        default="npz",
        help="seed: write no values, the reader draws the same again",
    )
    known, flags = parser.parse_known_args(argv)
    for name in ("batch", "length", "batches"):
        if getattr(known, name) < 1:
            raise UsageError(f"--{name} {getattr(known, name)}: must be 1 or more")
    if known.check_steps < 0:
        raise UsageError(f"--check_steps {known.check_steps}: must be 0 or more")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the losses to compare with are a processor's
    values: dict[str, Any] = {**BERT, **SIZES[known.size], **OPTIMIZER, "batch_size": known.batch}
    values |= vars(
        cli.build_parser("benchmarks.step_export", "", Config.groups()).parse_args(flags)
    )
    values.pop("config", None)

    everything = Config(*cli.build(Config.groups(), values, "benchmarks.step_export"))
    extras = {
        "check_steps": known.check_steps,
        "batches": known.batches,
        "with_values": known.values == "npz",
    }
    export(everything, known.out, known.vocab, known.length, **extras)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
