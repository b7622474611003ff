"""The command that pre-trains a model: python -m tpu_tlm.train --train_dir DIR --basedir RUN. The same command again continues."""

from __future__ import annotations

import sys
import typing

from tpu_tlm import init, options
from tpu_tlm.config import (
    ContrastiveConfig,
    DataConfig,
    DenoisingConfig,
    ElectraConfig,
    MlmConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    RuntimeConfig,
    TokenizerConfig,
)
from tpu_tlm.errors import run_command

if typing.TYPE_CHECKING:
    import numpy as np

    from tpu_tlm.models.spec import ModelSpec

CLASSES = (
    DataConfig,
    TokenizerConfig,
    ModelConfig,
    MlmConfig,
    ContrastiveConfig,
    DenoisingConfig,
    ElectraConfig,
    OptimConfig,
    RunConfig,
    RuntimeConfig,
)


def main(argv: list[str] | None = None) -> int:
    """Train to the last step, or until a signal asks to stop (exit code 143, everything saved)."""
    if (code := init.run_below(argv)) is not None:
        return code
    parsed = options.parse("tpu_tlm.train", __doc__ or "", CLASSES, argv)
    from tpu_tlm import runtime

    data, *_, run_options, runtime_options = parsed
    runtime.prepare(runtime_options)
    places = {"--train_dir": data.train_dir, "--valid_dir": data.valid_dir, "--basedir": run_options.basedir}
    runtime.check_paths(runtime_options, places)
    devices = runtime.connect(runtime_options)
    print(devices.reason, flush=True)
    from tpu_tlm.data import files
    from tpu_tlm.formats.npz import npz_bytes
    from tpu_tlm.formats.saved import Saved
    from tpu_tlm.training.assemble import Options
    from tpu_tlm.training.lock import locked
    from tpu_tlm.training.run import Run

    def export(step: int, values: dict[str, np.ndarray], spec: ModelSpec, fingerprint: str) -> None:
        files.make_directory(run.directory.npz)
        saved = Saved(values, spec, run.directory.path, fingerprint, run.directory.tokenizer)
        files.write_bytes(f"{run.directory.npz}/checkpoint-step-{step}.npz", npz_bytes(saved))
        # An export lives as long as the checkpoint of its step.
        kept = {f"checkpoint-step-{s}.npz" for s in run.checkpoints.steps()}
        for name in files.list_names(run.directory.npz):
            if name.startswith("checkpoint-step-") and name not in kept:
                files.remove(f"{run.directory.npz}/{name}")

    everything = Options(*parsed)
    with devices.team, locked(everything.run.basedir, devices.is_chief):
        run = Run(everything, devices, export if everything.run.npz else None)
        outcome = run.train()
    waited = "" if outcome.input_wait is None else f"; input wait {100.0 * outcome.input_wait:.1f} % of the time"
    print(f"{outcome.made} steps made, {outcome.steps} in all; last checkpoint {outcome.checkpoint}{waited}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
