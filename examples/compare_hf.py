"""Whether `transformers` fills masks with the converted model as `predict` does with the original.

    python examples/compare_hf.py RUN HF_DIR TEXT...

Needs torch and transformers (`make env` installs them where torch's build for CPUs is to be had,
`make test-hf` anywhere).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

Guesses = list[list[tuple[str, float]]]
TOLERANCE = 1e-5


def ours(model: str, texts: list[str]) -> list[Guesses]:
    """For every text and mask the five guesses and probabilities that `predict` prints."""
    command = [
        sys.executable,
        "-m",
        "tpu_tlm.predict",
        "fill-mask",
        "--json",
        "--top_k",
        "5",
        "--model",
        model,
        "--text",
        *texts,
    ]
    lines = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()
    return [
        [
            [(guess["token"], guess["probability"]) for guess in mask]
            for mask in json.loads(line)["masks"]
        ]
        for line in lines
    ]


def theirs(directory: str, texts: list[str]) -> list[Guesses]:
    """The same from the pipeline of `transformers`, with the tokenizer that it finds in the
    directory.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import pipeline

    fill = pipeline("fill-mask", model=directory, tokenizer=directory, device="cpu", top_k=5)
    found = []
    for text in texts:
        answer = fill(text)
        masks = (
            answer if isinstance(answer[0], list) else [answer]
        )  # with a single mask the list of masks is left out
        names = fill.tokenizer.convert_ids_to_tokens
        found.append(
            [[(names(guess["token"]), guess["score"]) for guess in mask] for mask in masks]
        )
    return found


def compare(model: str, directory: str, texts: list[str]) -> tuple[int, float]:
    """Number of masks compared and the largest difference of a probability; exits when tokens,
    their order or a probability differ.
    """
    masks, largest = 0, 0.0
    for text, mine, other in zip(texts, ours(model, texts), theirs(directory, texts), strict=True):
        for a, b in zip(mine, other, strict=True):
            largest = max(largest, *(abs(p - q) for (_, p), (_, q) in zip(a, b, strict=True)))
            masks += 1
            if [token for token, _ in a] != [token for token, _ in b] or largest > TOLERANCE:
                sys.exit(f"compare_hf: {text!r}: predict says {a}, transformers {b}")
    return masks, largest


def main(argv: list[str] | None = None) -> None:
    """Compare and print how many masks agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="run directory, or anything else that predict reads")
    parser.add_argument("directory", help="what `tpu_tlm.convert --to hf` made of it")
    parser.add_argument("text", nargs="+", help="texts with [MASK]")
    options = parser.parse_args(argv)
    masks, largest = compare(options.model, options.directory, options.text)
    print(
        f"transformers and predict: the same five tokens in the same order at {masks} masks, "
        f"probabilities within {largest:.1e}"
    )


if __name__ == "__main__":
    main()
