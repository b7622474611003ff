"""Sizes for a text, a machine and a time: vocabulary, example, batch, model, steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tpu_tlm.config.presets import PRESETS
from tpu_tlm.from_text.profile import TextProfile

# The presets that are chosen among, smallest first.
CANDIDATES = ("modernbert-tiny", "modernbert-small", "modernbert-base")
# A model is taken where its training has at least this many tokens per parameter of its layers.
TOKENS_PER_PARAMETER = 20.0
# More passes over a text teach little.
MOST_PASSES = 40.0
# Share of the steps in which the learning rate rises, and at the end falls.
WARMUP, DECAY = 0.1, 0.3
FEWEST_STEPS = 20
_MOST_HELD_OUT = 1000  # examples
_CHARACTERS_PER_TOKEN = {"alphabet": 4.2, "characters": 1.1, "unspaced": 3.0}


@dataclass(frozen=True)
class TextSizes:
    """Options of vocab and preprocess for a text.

    subword_type, vocab_size, cased, prefix, suffix, seq_length, valid_fraction: those options;
    tokens: of the whole text, estimated.
    """

    subword_type: str
    vocab_size: int
    cased: bool
    prefix: str
    suffix: str
    seq_length: int
    valid_fraction: float
    tokens: int


def text_sizes(
    profile: TextProfile, preset: str, *, accelerator: bool, cased: bool | None = None
) -> TextSizes:
    """Choose the options of vocab and preprocess.

    The vocabulary grows with the text, up to the preset's. Chinese and Japanese get WordPiece,
    which makes words of single characters; scripts of letters without spaces get a unigram model,
    which can cut sentences anywhere; other text gets the preset's kind.
    """
    text = PRESETS[preset].text
    kind = {"characters": "wordpiece", "unspaced": "unigram"}.get(
        profile.script, str(text["subword_type"])
    )
    if cased is None:
        cased = bool(text["cased"]) if profile.plain else True
    tokens = int(profile.characters / _CHARACTERS_PER_TOKEN[profile.script])
    largest = int(text["vocab_size"]) if accelerator else min(8192, int(text["vocab_size"]))
    wanted = 8192 * (tokens / 1_200_000) ** 0.5
    size = max(1024, min(largest, int(wanted) // 128 * 128))
    if profile.script == "characters":
        size = max(size, min(largest, 6144))  # characters alone are some thousands
    length = min(int(text["seq_length"]), 128 if accelerator else 64)
    examples = max(1, tokens // length)
    share = max(0.01, min(0.05, _MOST_HELD_OUT / examples))
    # Some documents must fall into the held-out part, or none would.
    share = min(0.3, max(share, 8 / profile.documents))
    frame = ("[CLS]", "[SEP]") if kind == "wordpiece" else ("<s>", "</s>")
    return TextSizes(kind, size, cased, *frame, length, round(share, 4), tokens)


def batch_size(*, accelerator: bool, seq_length: int) -> int:
    """Examples of a step: some 2,000 tokens on a processor, 32,000 on an accelerator."""
    return max(8, (32768 if accelerator else 2048) // seq_length)


@dataclass(frozen=True)
class Timing:
    """Seconds of a step, measured; parameters: of the layers; flops: of a step."""

    seconds: float
    parameters: int
    flops: float


def larger_preset(
    timing: Timing, seconds: float, tokens_per_step: int, text_tokens: int
) -> str | None:
    """The largest candidate that has enough tokens in the time; None: the smallest, as timed.

    timing: of the smallest. Its achieved FLOP/s are taken for the others, too, which is cautious:
    larger products run at a better rate.
    """
    for name in reversed(CANDIDATES[1:]):
        parameters = layer_parameters(PRESETS[name].values)
        ratio = parameters / max(timing.parameters, 1)
        steps = seconds / (timing.seconds * ratio)
        tokens = min(steps * tokens_per_step, MOST_PASSES * text_tokens)
        if tokens >= TOKENS_PER_PARAMETER * parameters:
            return name
    return None


def layer_parameters(values: Any) -> int:
    """Parameters of a preset's layers, without embeddings and head."""
    width, feed = int(values["d_model"]), int(values["d_ff"])
    gated = str(values["activation"]).startswith(("geglu", "swiglu"))
    return int(values["num_layers"]) * (4 * width * width + (3 if gated else 2) * width * feed)


def steps_in(seconds: float, timing: Timing, tokens_per_step: int, text_tokens: int) -> int:
    """Steps that fit the time, at most as many as `MOST_PASSES` over the text."""
    passes = int(MOST_PASSES * text_tokens / tokens_per_step)
    return max(FEWEST_STEPS, min(int(seconds / timing.seconds), passes))
