"""Random toy models of `transformers` with a tokenizer of their family's kind, in a directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.tasks.toy_tasks import WORDS

SIZES = {
    **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"intermediate_size": 24, "max_position_embeddings": 40},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "Bert": SIZES,
    "DistilBert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24}
    | {"max_position_embeddings": 40},
    "Electra": {**SIZES, "embedding_size": 8},
    "Albert": {**SIZES, "embedding_size": 8},
    "Roberta": {**SIZES, "type_vocab_size": 1},
    "XLMRoberta": {**SIZES, "type_vocab_size": 1},
    "MPNet": SIZES,
    "ModernBert": {**SIZES, "local_attention": 8},
    "GPT2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 40},
    "T5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    | {"decoder_start_token_id": 0},
}
BYTES = ("Roberta", "GPT2", "ModernBert")
# Special tokens in the order of their ids, and the frame of one text and of two.
_BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_TEMPLATES: dict[str, tuple[list[str], str, str]] = {
    "T5": (["<pad>", "</s>", "<unk>"], "$A </s>", "$A </s> $B </s>"),
    "GPT2": (["<|endoftext|>"], "$A", "$A $B"),
    "ModernBert": (_BERT, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]"),
    **dict.fromkeys(
        ("Roberta", "XLMRoberta", "MPNet"),
        (_ROBERTA, "<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    ),
}
_CORPUS = "the film is good and the day is bad! John is in Paris. it was a very sad house"
LABELS = {"id2label": {0: "neg", 1: "pos"}, "label2id": {"neg": 0, "pos": 1}}


def family(path: Path, start: str, end: str, **config: Any) -> Any:
    """Write a random model and its tokenizer; returns the model in evaluation mode."""
    import torch
    import transformers

    pipeline = _pipeline(start)
    ids = {name: pipeline.token_to_id(token) for name, token in names(start).items()}
    own = {f"{name}_id": index for name, index in ids.items() if name != "unk_token"}
    given = {**CONFIGS[start], **own, "vocab_size": pipeline.get_vocab_size(), **config}
    torch.manual_seed(3)
    model = getattr(transformers, start + end)(getattr(transformers, f"{start}Config")(**given))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.6 * torch.randn_like(parameter)
    model.save_pretrained(path)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=pipeline, **names(start))
    fast.save_pretrained(path)
    types = ["token_type_ids"] * (start in ("Bert", "Electra", "Albert"))
    settings = json.loads((path / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", *types, "attention_mask"]
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return model.eval()


def names(start: str) -> dict[str, str]:
    """The special tokens of a family by name."""
    if start == "GPT2":
        return {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    if start == "T5":
        return {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    if start in ("Roberta", "XLMRoberta", "MPNet"):
        parts = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "unk": "<unk>"}
        return {f"{name}_token": token for name, token in parts.items()}
    parts = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]"}
    return {f"{name}_token": token for name, token in parts.items()} | (
        {"bos_token": "[CLS]", "eos_token": "[SEP]"} if start == "ModernBert" else {}
    )


def _pipeline(start: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    bert = (_BERT, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    special, single, pair = _TEMPLATES.get(start, bert)
    if start in BYTES:
        pipeline = Tokenizer(models.BPE())
        pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        # "!" is the first token of GPT-2.
        first = [] if start == "GPT2" else special
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=320, initial_alphabet=alphabet, special_tokens=first, show_progress=False
        )
        pipeline.train_from_iterator([_CORPUS] * 3, trainer)
    else:
        words = [*special, *(word for word in WORDS if word[0] not in "[#")]
        unknown = names(start)["unk_token"]
        pipeline = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unknown))
        pipeline.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pipeline.add_special_tokens(special)
    known = [(token, pipeline.token_to_id(token)) for token in special]
    pipeline.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=known
    )
    return pipeline


def logits(model: Any, path: Path | str, texts: Any) -> list[np.ndarray]:
    """The logits of texts, or of pairs, each by itself, as `transformers` tokenizes them."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(path))
    found = []
    for text in texts:
        given = tokenizer(*([text] if isinstance(text, str) else text), return_tensors="pt")
        with torch.no_grad():
            found.append(model(**given).logits[0].numpy())
    return found
