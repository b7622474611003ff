"""The objective of a model."""

from __future__ import annotations

from tpu_tlm.config import MlmConfig
from tpu_tlm.data.tokenizers import Tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.base import Objective
from tpu_tlm.objectives.clm import CausalLanguageModeling
from tpu_tlm.objectives.mlm import MaskedLanguageModeling, Specials


def make_objective(spec: ModelSpec, config: MlmConfig, tokenizer: Tokenizer) -> Objective:
    """What a model of this spec is trained and measured by. Raises `UsageError` for a kind of model without an objective."""
    if spec.kind == "clm":
        return CausalLanguageModeling(spec.pad_id, spec.eol_id if spec.config.segment_mask else None)
    if spec.kind == "mlm":
        specials = Specials(len(tokenizer.tokens), tokenizer.pad_id, tokenizer.mask_id, tuple(tokenizer.special_ids))
        return MaskedLanguageModeling(config, specials)
    raise UsageError(f"there is no objective for a model of kind {spec.kind!r}")
