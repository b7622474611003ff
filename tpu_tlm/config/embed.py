"""Options of the command that writes vectors of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tpu_tlm.config.commands import MEAD_CONFIG
from tpu_tlm.config.options import OptionGroup, opt


@dataclass(frozen=True)
class EmbedConfig(OptionGroup):
    """Vectors of texts."""

    model: str = opt(
        "",
        "model of any kind that convert reads, or a fine-tuned run",
        required=True,
        unit="path",
        also_called=("model_name_or_path", "run_dir"),
    )
    input: str = opt(
        "",
        "texts: .txt, one a line; or .tsv, .csv, .jsonl, .parquet with a column of texts",
        required=True,
        unit="file",
    )
    output: str = opt("", "vectors: NAME.npz, .npy or .parquet", required=True, unit="file")
    text: str = opt(
        "text",
        "column of the text; without a header its number, from 0",
        unit="name",
        basic=True,
    )
    header: bool = opt(True, "the first line of a TSV or CSV file names the columns")
    pooling: Literal["cls", "mean", "max", "sqrt", "last"] = opt(
        "mean",
        "from token vectors to one vector; sqrt: sum divided by the root of the length",
        basic=True,
    )
    normalize: bool = opt(
        False,
        "vectors of length 1",
        basic=True,
    )
    batch_size: int = opt(
        64,
        "texts per batch",
        unit="texts",
        minimum=1,
    )
    max_length: int | None = opt(
        None,
        "tokens of a window; longer texts are the mean of their windows; none = what the model "
        "takes, at most 512",
        unit="tokens",
        minimum=1,
    )
    step: int | None = opt(
        None,
        "checkpoint of the run to take; none = the newest good one",
        unit="step",
        minimum=0,
    )
    tokenizer: str | None = opt(
        None, "a tokenizer's directory or file; none = the one stored with the model", unit="path"
    )
    mead_config: str | None = opt(None, MEAD_CONFIG, unit="file")
