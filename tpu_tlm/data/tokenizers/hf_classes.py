"""What the class of a HuggingFace tokenizer says that its files do not."""

from __future__ import annotations

from typing import Any

from tpu_tlm.data.tokenizers.text_files import json_at

# Classes that split as BERT does, whose settings overrule tokenizer.json.
_BERT = {"bert", "distilbert", "electra", "mobilebert", "lxmert"}
# Classes that split as GPT-2 does, with its special tokens or with RoBERTa's.
_GPT2 = {"gpt2", "codegen", "gptneo", "gptj"}
_ROBERTA = {"roberta", "bart", "longformer", "led"}
_NAMED_BY_ROBERTA = {
    **{"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>"},
    **{"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"},
}
_NAMED_BY_GPT2 = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
_NAMED_BY_BERT = {
    **{"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]"},
    **{"cls_token": "[CLS]", "mask_token": "[MASK]"},
}
_NAMED = {
    **dict.fromkeys(_GPT2, _NAMED_BY_GPT2),
    **dict.fromkeys((*_ROBERTA, "xlmroberta", "camembert"), _NAMED_BY_ROBERTA),
    **dict.fromkeys(_BERT, _NAMED_BY_BERT),
}


def class_name(settings: dict[str, Any], base: str = "") -> str:
    """The class that tokenizer_config.json names, or else config.json; "" for none.

    base: the directory of config.json and a slash; not read where it is empty.
    """
    found = settings.get("tokenizer_class")
    if not found and base:
        config = json_at(base + "config.json")
        found = config.get("tokenizer_class") or config.get("model_type")
    return found if isinstance(found, str) else ""


def splits_as_bert(name: str) -> bool:
    """Whether a vocab.txt of this class is used as BERT uses it."""
    return not name or _short(name) in _BERT


def splits_as_gpt2(name: str) -> bool:
    """Whether vocab.json and merges.txt of this class are used as GPT-2 uses them."""
    return not name or _short(name) in _GPT2 | _ROBERTA


def usual_names(name: str) -> dict[str, str]:
    """The special tokens of a class where its settings do not name others; {} if not known."""
    return _NAMED.get(_short(name), {})


def _short(name: str) -> str:
    name = name.removesuffix("Fast").removesuffix("Tokenizer").lower()
    return name.replace("-", "").replace("_", "")
