"""Options of the command quickstart."""

from __future__ import annotations

from dataclasses import dataclass

from tpu_tlm.config.options import OptionGroup, opt
from tpu_tlm.config.presets import PRESETS

# Presets of models that fill masks.
MASKED_PRESETS = tuple(
    name for name, preset in PRESETS.items() if preset.values["objective"] == "mlm"
)


@dataclass(frozen=True)
class QuickstartConfig(OptionGroup):
    """Quickstart."""

    text: list[str] = opt(
        [],
        "files, directories or globs of your own text",
        required=True,
        unit="path",
        also_called=("input_files", "train_file", "corpus"),
    )
    run_dir: str = opt(
        "quickstart",
        "directory for everything that is made; the same command again continues in it",
        unit="dir",
        basic=True,
        also_called=("output", "output_dir", "out_dir"),
    )
    minutes: float = opt(
        10.0,
        "time for everything, from text to HuggingFace directory",
        unit="minutes",
        above=0,
        maximum=100_000,
        basic=True,
    )
    preset: str | None = opt(
        None,
        "model to train, a masked language model; none = by machine, text and minutes",
        unit="name",
        choices=MASKED_PRESETS,
        basic=True,
    )
    steps: int | None = opt(
        None,
        "optimizer steps; none = as many as --minutes allow",
        unit="steps",
        minimum=1,
        conflicts=("minutes",),
        also_called=("max_steps",),
    )
    cased: bool | None = opt(
        None,
        "keep capital letters and accents; none = the preset's way for text in plain English "
        "letters, else true",
        basic=True,
    )
    text_column: str | None = opt(
        None, "column that holds the text in .csv, .tsv and Parquet files", unit="name"
    )
    json_field: str = opt("text", "field with the text in JSON lines", unit="name")
    seed: int = opt(
        0, "seed of initial weights, order and masks", unit="integer", minimum=0, maximum=2**31 - 1
    )
