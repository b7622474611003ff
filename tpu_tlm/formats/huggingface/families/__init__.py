"""The HuggingFace model families that are read and written: one entry each."""

from __future__ import annotations

from tpu_tlm.errors import UsageError
from tpu_tlm.formats.huggingface.families.albert import Albert
from tpu_tlm.formats.huggingface.families.bart import Bart
from tpu_tlm.formats.huggingface.families.bert import Bert
from tpu_tlm.formats.huggingface.families.distilbert import DistilBert
from tpu_tlm.formats.huggingface.families.electra import Electra
from tpu_tlm.formats.huggingface.families.family import Family
from tpu_tlm.formats.huggingface.families.gpt2 import Gpt2
from tpu_tlm.formats.huggingface.families.modernbert import ModernBert
from tpu_tlm.formats.huggingface.families.mpnet import MPNet
from tpu_tlm.formats.huggingface.families.roberta import Roberta
from tpu_tlm.formats.huggingface.families.t5 import T5
from tpu_tlm.formats.json_files import ConfigReader

# In the order in which a model without a family of its own is tried on them when it is written.
FAMILIES: tuple[Family, ...] = (
    Bert(),
    DistilBert(),
    Electra(),
    Roberta(),
    Roberta("xlm-roberta", "XLMRoberta"),
    Roberta("camembert", "Camembert"),
    MPNet(),
    Albert(),
    ModernBert(),
    Gpt2(),
    T5(),
    Bart(),
)

# Families whose arithmetic has no counterpart here, and why.
_REFUSED = {
    "deberta": "disentangled attention",
    "deberta-v2": "disentangled attention",
    "longformer": "global attention by task",
    "big_bird": "block-sparse attention",
    "funnel": "pooling between layers",
    "xlnet": "two-stream attention",
}


def names() -> list[str]:
    """`model_type` of every family."""
    return [family.name for family in FAMILIES]


def family_named(name: str) -> Family:
    """The family of a `model_type`. Raises `UsageError` for another one."""
    for family in FAMILIES:
        if family.name == name:
            return family
    raise UsageError(f"--family {name}: supported are {', '.join(names())}")


def family_of(config: ConfigReader) -> Family:
    """The family that a config.json names. Raises `UsageError` for one that is not supported."""
    kind = config.values.get("model_type")
    # BERT's own bert_config.json names no type.
    if kind is None and "hidden_size" in config.values:
        return FAMILIES[0]
    for family in FAMILIES:
        if family.name == kind:
            return family
    known = f"supported are {', '.join(names())}"
    if isinstance(kind, str) and kind in _REFUSED:
        known = f"{_REFUSED[kind]} is not supported; {known}"
    config.fail("model_type", known)
