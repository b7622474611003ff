"""The result of a quickstart, and what is printed of it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from tpu_tlm.config.quickstart import QuickstartConfig

SCRIPT = "commands.sh"


@dataclass(frozen=True)
class QuickstartResult:
    """What a quickstart made.

    run_dir: the training run; huggingface: directory that `transformers` loads; report, picture:
    files; commands: the five command lines; loss, unigram: of the held-out documents, by the model
    and by word frequencies alone, in nats per token; guesses: (masked sentence, the word, the five
    most probable tokens); seconds: of this call.
    """

    run_dir: str
    huggingface: str
    report: str
    picture: str | None
    commands: list[str]
    loss: float
    unigram: float
    guesses: list[tuple[str, str, list[str]]]
    seconds: float


def summary_lines(result: QuickstartResult, directory: str, config: QuickstartConfig) -> list[str]:
    """What is printed at the end."""
    gain = result.unigram - result.loss
    if gain > 0.3:
        verdict = "well below" if gain > 1.0 else "below"
    else:
        degree = "hardly" if gain > 0.0 else "not"
        verdict = f"{degree} below: it needs more --minutes or more text"
    lines = [
        "",
        f"validation loss {result.loss:.3f}, word frequencies alone {result.unigram:.3f}: "
        f"{verdict}",
        f"model            {result.run_dir}",
        f"HuggingFace      {result.huggingface}   (AutoModelForMaskedLM, AutoTokenizer)",
        f"report           {result.report}",
    ]
    if result.picture:
        lines.append(f"loss curve       {result.picture}")
    lines += [f"the same by hand {directory}/{SCRIPT}:", *map("  {}".format, result.commands)]
    model = shlex.quote(result.run_dir)
    more = f"--minutes {config.minutes * 6:g} --run_dir {shlex.quote(f'{directory}-longer')}"
    return [
        *lines,
        f"{result.seconds / 60:.1f} minutes",
        "",
        "next:",
        f"  tpu-tlm quickstart --text {shlex.join(config.text)} {more}",
        f"  tpu-tlm finetune --task classify --model {model} --train labelled.csv --run_dir tuned",
        f"  tpu-tlm embed --model {model} --input texts.txt --output vectors.npz",
    ]
