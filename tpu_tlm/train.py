"""The command that pre-trains a model: python -m tpu_tlm.train --train_dir DIR --run_dir RUN. The same command again continues."""

from __future__ import annotations

import sys
import typing

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
    cli,
)
from tpu_tlm.distributed import pid1
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
    if (code := pid1.run_below(argv)) is not None:
        return code
    parsed = cli.parse("tpu_tlm.train", __doc__ or "", CLASSES, argv)
    from tpu_tlm.devices import select

    data, *_, run_options, runtime_options = parsed
    select.prepare(runtime_options)
    places = {
        "--train_dir": data.train_dir,
        "--valid_dir": data.valid_dir,
        "--run_dir": run_options.run_dir,
    }
    select.check_paths(runtime_options, places)
    devices = select.connect(runtime_options)
    print(devices.reason, flush=True)
    from tpu_tlm import filesystem
    from tpu_tlm.checkpoints.run_lock import locked
    from tpu_tlm.formats.mead.npz import npz_bytes
    from tpu_tlm.formats.pretrained import PretrainedModel
    from tpu_tlm.training.setup import Options
    from tpu_tlm.training.trainer import Trainer

    def export(step: int, values: dict[str, np.ndarray], spec: ModelSpec, fingerprint: str) -> None:
        filesystem.make_directory(run.directory.npz)
        saved = PretrainedModel(
            values, spec, run.directory.path, fingerprint, run.directory.tokenizer
        )
        filesystem.write_bytes(f"{run.directory.npz}/checkpoint-step-{step}.npz", npz_bytes(saved))
        # An export lives as long as the checkpoint of its step.
        kept = {f"checkpoint-step-{s}.npz" for s in run.checkpoints.steps()}
        for name in filesystem.list_names(run.directory.npz):
            if name.startswith("checkpoint-step-") and name not in kept:
                filesystem.remove(f"{run.directory.npz}/{name}")

    everything = Options(*parsed)
    with devices.team, locked(everything.run.run_dir, devices.is_chief):
        run = Trainer(everything, devices, export if everything.run.export_npz else None)
        outcome = run.train()
    waited = (
        ""
        if outcome.input_wait is None
        else f"; input wait {100.0 * outcome.input_wait:.1f} % of the time"
    )
    print(
        f"{outcome.made} steps made, {outcome.steps} in all; last checkpoint {outcome.checkpoint}{waited}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
