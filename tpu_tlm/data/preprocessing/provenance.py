"""What the bytes of a dataset depend on."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.config import CorpusConfig, PairsConfig, PreprocessConfig
from tpu_tlm.config.options import options_in
from tpu_tlm.data.corpus.inputs import InputFile
from tpu_tlm.data.made_from import listing
from tpu_tlm.data.tokenizers.base import Tokenizer

VERSION = 2  # raised when the same input and options come to give other examples
# Options that `md.yml` (format 1) records under an older name.
_KEYS = {"seq_length": "nctx", "eol_token": "tok_on_eol", "packing": "pack"}
# Recorded only where they differ from what was done before there were such options.
_DEFAULTS = {"document": "blank-line", "text_column": None, "pairs_format": "auto"}


def made_from(
    corpus: CorpusConfig,
    config: PreprocessConfig,
    pairs: PairsConfig | None,
    tokenizer: Tokenizer,
    inputs: Sequence[InputFile],
) -> dict[str, Any]:
    """All that the bytes of the dataset depend on, as JSON values."""
    options = {
        _KEYS.get(name, name): value
        for name, value in dataclasses.asdict(config).items()
        if options_in(PreprocessConfig)[name].declared.shapes_data
    }
    options |= dataclasses.asdict(pairs) if pairs else {}
    options |= {"document": corpus.document, "text_column": corpus.text_column}
    for name, default in _DEFAULTS.items():
        if options.get(name, default) == default:
            options.pop(name, None)
    return {
        "pipeline": VERSION,
        **listing(inputs),
        "tokenizer": tokenizer.fingerprint(),
        "json_field": corpus.json_field,
        **options,
    }


def newest_change(inputs: Sequence[InputFile]) -> str | None:
    """When the last of the local input files was changed; None for remote ones."""
    times = [os.stat(f.path).st_mtime for f in inputs if not filesystem.is_remote(f.path)]
    if not times:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(times)))
