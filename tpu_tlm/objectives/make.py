"""The objectives by name."""

from __future__ import annotations

from tpu_tlm.config import MlmConfig
from tpu_tlm.data.tokenizers import Tokenizer
from tpu_tlm.objectives.base import Objective
from tpu_tlm.objectives.mlm import MaskedLanguageModeling, Specials


def make_objective(name: str, config: MlmConfig, tokenizer: Tokenizer) -> Objective:
    """The objective called `name`. Raises `UsageError` when the tokenizer lacks a token that it needs."""
    specials = Specials(len(tokenizer.tokens), tokenizer.pad_id, tokenizer.mask_id, tuple(tokenizer.special_ids))
    return {"mlm": MaskedLanguageModeling}[name](config, specials)
