"""The command that tries a model out: python -m tpu_tlm.predict fill-mask --model RUN_OR_NPZ --text "a [MASK] story"."""

from __future__ import annotations

import json
import sys

from tpu_tlm import options
from tpu_tlm.config import PredictConfig
from tpu_tlm.errors import UsageError, run_command


def main(argv: list[str] | None = None) -> int:
    """Print the guesses for every text; exit code 0."""
    (config,) = options.parse("tpu_tlm.predict", __doc__ or "", [PredictConfig], argv)
    if config.top_k < 1:
        raise UsageError(f"--top_k {config.top_k}: at least one guess must be asked for")
    from tpu_tlm import runtime

    runtime.quiet()
    from tpu_tlm.objectives.fill_mask import FillMask
    from tpu_tlm.training.saved import load_saved

    saved = load_saved(config.model, config.step)
    fill = FillMask(saved.model(), saved.spec, saved.tokenizer(config.tokenizer))
    if not config.json:
        print(f"# {saved.source}")
    for text in config.text or (line.rstrip("\n") for line in sys.stdin):
        masks = fill(text, config.top_k)
        if config.json:
            print(json.dumps({"text": text, "masks": [[guess._asdict() for guess in mask] for mask in masks]}, ensure_ascii=False))
            continue
        print(text)
        for number, mask in enumerate(masks, 1):
            for guess in mask:
                print(f"  mask {number}  {guess.probability:7.2%}  {guess.token}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
