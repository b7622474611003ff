"""A timed run of this package, and its evaluation masks for other programs.

python -m benchmarks.our_training CURVE OPTIONS    # OPTIONS of `train` as JSON
python -m benchmarks.our_training arrays DATA DIR  # DATA/train, DATA/valid as NumPy arrays
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning_curve import Stopwatch


def train(curve: Path, options: dict[str, Any]) -> None:
    """`tpu_tlm.train` with these options and the defaults of all others."""
    import tpu_tlm as tlm

    class Timed(tlm.Callback):
        """Tells the time after every device call; an evaluation comes after one."""

        def __init__(self) -> None:
            self.watch = Stopwatch()

        def on_start(self, start: Any) -> None:
            self.watch.go()

        def on_step(self, report: Any) -> None:
            self.watch.steps(report.step)

        def on_evaluate(self, report: Any) -> None:
            self.watch.loss(report.step, float(report.values["loss"]))

    timed = Timed()
    tlm.train(tlm.Config(**options), callbacks=[timed], display=False)
    timed.watch.curve.save(curve)


def valid_arrays(directory: str) -> dict[str, np.ndarray]:
    """A dataset as an evaluation with `--objective mlm` sees it.

    ids: [examples, tokens] with the masks; positions, labels, weights: [examples, predictions].
    """
    from tpu_tlm.config import MlmConfig
    from tpu_tlm.data.dataset.dataset import open_dataset
    from tpu_tlm.data.dataset.stream import in_order
    from tpu_tlm.models.layers.counter_rng import Key
    from tpu_tlm.objectives.mlm import MaskedLanguageModeling, specials_of

    dataset = open_dataset(directory)
    objective = MaskedLanguageModeling(MlmConfig(), specials_of(dataset.load_tokenizer()))
    parts = []
    for batch in in_order(dataset, 64):
        key = Key.of(0, batch["position"]).fold("corruption")
        kept = batch["valid"].numpy() > 0
        parts.append([t.numpy()[kept] for t in objective.masked(batch, key, training=False)])
    names = ("ids", "positions", "labels", "weights")
    return {
        name: np.concatenate(column)
        for name, column in zip(names, zip(*parts, strict=True), strict=True)
    }


def save_arrays(data: str, output: Path) -> None:
    """Write train.npy, valid.npz and vocabulary.json: its size, mask id and special ids."""
    from tpu_tlm.data.dataset.dataset import open_dataset
    from tpu_tlm.data.dataset.stream import in_order
    from tpu_tlm.objectives.mlm import specials_of

    dataset = open_dataset(f"{data}/train")
    batches = [b["x"].numpy()[b["valid"].numpy() > 0] for b in in_order(dataset, 64)]
    np.save(output / "train.npy", np.concatenate(batches))
    np.savez(output / "valid.npz", **valid_arrays(f"{data}/valid"))  # type: ignore[arg-type]
    specials = specials_of(dataset.load_tokenizer())
    vocabulary = {
        "size": specials.vocab_size,
        "mask_id": specials.mask_id,
        "special_ids": sorted(specials.ids),
    }
    (output / "vocabulary.json").write_text(json.dumps(vocabulary), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "arrays":
        save_arrays(sys.argv[2], Path(sys.argv[3]))
    else:
        train(Path(sys.argv[1]), json.loads(sys.argv[2]))
