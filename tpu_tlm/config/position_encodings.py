"""Names of the position encodings: the registry that `--position_encoding` chooses from.

One entry per encoding. The class that an entry names is in the room of the models and is imported
on first use (`tpu_tlm.models.positions.registry`), so that options need no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tpu_tlm.errors import UsageError


class Entry(NamedTuple):
    """One position encoding: what it acts on, the class that implements it, and one line of help.

    `acts`: "absolute" encodings change the embeddings, "relative" ones the attention; a model has
    at most one of each. `implementation`: `module:Class`.
    """

    acts: Literal["absolute", "relative"]
    implementation: str
    help: str


_ROOM = "tpu_tlm.models.positions"
POSITION_ENCODINGS: dict[str, Entry] = {
    "learned": Entry("absolute", f"{_ROOM}.learned:Learned", "a vector per position (BERT, GPT-2)"),
    "learned-with-bias": Entry(
        "absolute", f"{_ROOM}.learned:LearnedWithBias", "learned plus one vector for all positions"
    ),
    "sinusoidal": Entry("absolute", f"{_ROOM}.sinusoidal:Sinusoidal", "sines, interleaved (MEAD)"),
    "sinusoidal-t2t": Entry(
        "absolute", f"{_ROOM}.sinusoidal:SinusoidalHalves", "sines in halves (Tensor2Tensor)"
    ),
    "modular": Entry(
        "absolute", f"{_ROOM}.modular:Modular", "tables by position modulo 47 and 11 (ConveRT)"
    ),
    "shaw": Entry(
        "relative", f"{_ROOM}.shaw:Shaw", "learned keys and values by distance, up to --rpr_k"
    ),
    "convert": Entry(
        "relative", f"{_ROOM}.convert:Convert", "a bias per head and distance, up to --rpr_k"
    ),
    "alibi": Entry("relative", f"{_ROOM}.alibi:Alibi", "a fixed slope per head"),
    "t5": Entry("relative", f"{_ROOM}.t5:T5", "a bias per head and bucket of distances"),
    "rotary": Entry("relative", f"{_ROOM}.rotary:Rotary", "queries and keys rotated (RoFormer)"),
}


class _Choices(Sequence[str]):
    """The names that the option takes, also those registered later."""

    def __len__(self) -> int:
        return len(POSITION_ENCODINGS) + 1

    def __getitem__(self, index: Any) -> Any:
        return ("none", *POSITION_ENCODINGS)[index]


CHOICES = _Choices()
# What the first edition and MEAD call the absolute encodings (`--embed_type`).
EMBED_TYPES: dict[str, str | None] = {
    "default": None,
    "learned-positional": "learned",
    "learned-positional-w-bias": "learned-with-bias",
    "positional": "sinusoidal",
    "positional-t2t": "sinusoidal-t2t",
    "modular": "modular",
}
# Flags and keys that `--position_encoding` replaces.
OLD_NAMES = ("embed_type", "ra_type")


def check(names: Sequence[str]) -> list[str]:
    """The encodings in canonical order, absolute before relative.

    Raises `UsageError` for an unknown name, or for two encodings that act on the same thing.
    """
    chosen: dict[str, str] = {}
    for name in names:
        if name not in POSITION_ENCODINGS:
            raise UsageError(
                f"--position_encoding: {name!r} is not one of {', '.join(POSITION_ENCODINGS)}"
            )
        acts = POSITION_ENCODINGS[name].acts
        if acts in chosen:
            raise UsageError(
                f"--position_encoding {' '.join(names)}: {chosen[acts]} and {name} are both"
                f" {acts}; give at most one of each kind"
            )
        chosen[acts] = name
    return [chosen[acts] for acts in ("absolute", "relative") if acts in chosen]


def describe() -> str:
    """One line of help that lists every encoding with its meaning."""
    kinds = {"absolute": "on the embeddings", "relative": "in attention"}
    texts = [
        f"{acts} ({where}): "
        + ", ".join(f"{n} ({e.help})" for n, e in POSITION_ENCODINGS.items() if e.acts == acts)
        for acts, where in kinds.items()
    ]
    return "how positions are encoded, at most one name of each kind; " + "; ".join(texts)


def translate(values: Mapping[str, Any], where: str, base: Mapping[str, Any]) -> dict[str, Any]:
    """The options `values` with `embed_type` and `ra_type` replaced by `position_encoding`.

    `base`: the options that `values` wins over (those of a file, under flags): an old name replaces
    only the encoding of its own kind in them. Raises `UsageError` naming `where` for a value that
    no encoding has, or for old and new names together.
    """
    given = {name: values[name] for name in OLD_NAMES if name in values}
    if not given:
        return dict(values)
    if "position_encoding" in values:
        raise UsageError(
            f"{where}: 'position_encoding' is given twice (also as {next(iter(given))!r})"
        )
    before = base.get("position_encoding", ["shaw"])
    before = [before] if isinstance(before, str) else before
    kinds = {e.acts: n for n, e in POSITION_ENCODINGS.items() if n in before}
    absolute, relative = kinds.get("absolute"), kinds.get("relative")
    if "embed_type" in given:
        if given["embed_type"] not in EMBED_TYPES:
            known = ", ".join(EMBED_TYPES)
            raise UsageError(f"{where}: embed_type: {given['embed_type']!r} is not one of {known}")
        absolute = EMBED_TYPES[given["embed_type"]]
    if "ra_type" in given:
        relatives = [n for n, e in POSITION_ENCODINGS.items() if e.acts == "relative"]
        if given["ra_type"] not in relatives:
            raise UsageError(
                f"{where}: ra_type: {given['ra_type']!r} is not one of {', '.join(relatives)}"
            )
        relative = given["ra_type"]
    kept = {name: value for name, value in values.items() if name not in given}
    return {**kept, "position_encoding": [n for n in (absolute, relative) if n is not None]}
