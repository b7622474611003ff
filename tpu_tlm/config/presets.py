"""Presets: the option values of published models by name (`--preset`).

A preset gives defaults; a file and flags win over it. Sizes are those of the papers and of the
HuggingFace configurations that `source` names. Learning rates and initial weights marked "ours" are
not published anywhere: docs/defaults.md has the sweep that they are from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from tpu_tlm.config.options import opt


@dataclasses.dataclass(frozen=True)
class Preset:
    """One preset.

    values: options of train, plan and convert. text: options of vocab and preprocess (and sizes
    for plan). warmup: published warm-up steps, used for runs of at least ten times as many steps;
    shorter ones warm up for a tenth. source: where the values are from.
    """

    source: str
    values: Mapping[str, Any]
    text: Mapping[str, Any]
    warmup: int | None = None
    missing: str = ""


def _sizes(layers: int, width: int, heads: int, ff: int | None = None) -> dict[str, Any]:
    return {
        "num_layers": layers,
        "d_model": width,
        "num_heads": heads,
        "d_ff": 4 * width if ff is None else ff,
    }


_LEARNED = {"position_encoding": ["learned"], "max_positions": 512}
# The architecture of Devlin et al. (arXiv 1810.04805) as HuggingFace's BertConfig has it.
_BERT = {
    "objective": "mlm",
    **_LEARNED,
    "embeddings_reduction": "sum-layer-norm",
    "type_vocab_size": 2,
    "transformer_type": "post-layer-norm",
    "activation": "gelu-exact",
    "layer_norm_eps": 1e-12,
    "mlm_head": "bert",
    "output_bias": True,
    "tie_weights": True,
    "dropout": 0.1,
    "embeddings_dropout": 0.1,
    "weight_init": "bert",
    "weight_std": 0.02,
    "optimizer": "adamw",
    "lr": 1e-4,
    "lr_schedule": "linear",
    "weight_decay": 0.01,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-6,
    "clip": 1.0,
    "batch_size": 256,
    "mask_rate": 0.15,
}
_WORDPIECE = {
    "subword_type": "wordpiece",
    "vocab_size": 30522,
    "cased": False,
    "seq_length": 512,
    "prefix": "[CLS]",
    "suffix": "[SEP]",
    "eol_token": None,
}
_BERT_PAPER = "arXiv 1810.04805, A.2; HuggingFace google-bert/"
_MINIATURE = (
    "sizes: arXiv 1908.08962 (google/bert_uncased_L-{}); learning rate and initial weights: ours"
)

_ROBERTA = {
    **_BERT,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "beta2": 0.98,
}
_BPE = {"subword_type": "bpe", "cased": True}
# Byte-level BPE; its special tokens are RoBERTa's.
_BYTE_BPE = {
    "subword_type": "byte-bpe",
    "cased": True,
    "prefix": "<s>",
    "suffix": "</s>",
    "eol_token": None,
}

# Clark et al., arXiv 2003.10555, appendix A.
_ELECTRA = {
    **_BERT,
    "objective": "electra",
    "disc_weight": 50.0,
    "layer_norm_eps": 1e-12,
}

# Warner et al., arXiv 2412.13663.
_MODERNBERT = {
    "objective": "mlm",
    "position_encoding": ["rotary"],
    "rotary_base": 160000.0,
    "rotary_base_local": 10000.0,
    "use_bias": False,
    "norm_bias": False,
    "skip_first_norm": True,
    "local_window": 64,
    "global_every": 3,
    "embeddings_reduction": "sum-layer-norm",
    "transformer_type": "pre-layer-norm",
    "norm_type": "layer-norm",
    "layer_norm_eps": 1e-5,
    "activation": "geglu-exact",
    "mlm_head": "bert",
    "output_bias": True,
    "tie_weights": True,
    "dropout": 0.0,
    "embeddings_dropout": 0.0,
    "weight_init": "bert",
    "weight_std": 0.02,
    "residual_scaling": True,
    "optimizer": "adamw",
    "lr_schedule": "wsd",
    "weight_decay": 1e-5,
    "beta1": 0.9,
    "beta2": 0.98,
    "eps": 1e-6,
    "mask_rate": 0.3,
}
_MODERNBERT_MISSING = "StableAdamW and the 1-sqrt decay"
_MODERNBERT_TEXT = {**_BYTE_BPE, "vocab_size": 50000, "seq_length": 1024}
# The small ones are for own text in any language: WordPiece splits Chinese characters, too.
_SMALL_TEXT = {**_WORDPIECE, "cased": True}

PRESETS: dict[str, Preset] = {
    "bert-base": Preset(
        f"{_BERT_PAPER}bert-base-uncased", {**_BERT, **_sizes(12, 768, 12)}, _WORDPIECE, 10000
    ),
    "bert-large": Preset(
        f"{_BERT_PAPER}bert-large-uncased", {**_BERT, **_sizes(24, 1024, 16)}, _WORDPIECE, 10000
    ),
    "bert-small": Preset(
        _MINIATURE.format("4_H-512_A-8"),
        {**_BERT, **_sizes(4, 512, 8), "lr": 5e-4, "weight_std": 0.03},
        {**_WORDPIECE, "seq_length": 128},
        10000,
    ),
    "bert-tiny": Preset(
        _MINIATURE.format("2_H-128_A-2"),
        {
            **_BERT,
            **_sizes(2, 128, 2),
            "lr": 1.5e-3,
            "weight_std": 0.08,
            "dropout": 0.0,
            "embeddings_dropout": 0.0,
        },
        {**_WORDPIECE, "seq_length": 128},
        10000,
    ),
    "roberta-base": Preset(
        "arXiv 1907.11692, table 9; HuggingFace FacebookAI/roberta-base",
        {**_ROBERTA, **_sizes(12, 768, 12), "lr": 6e-4, "batch_size": 8192},
        {**_BYTE_BPE, "vocab_size": 50000, "seq_length": 512},
        24000,
    ),
    "electra-small": Preset(
        "arXiv 2003.10555, table 6; HuggingFace google/electra-small-discriminator",
        {
            **_ELECTRA,
            **_sizes(12, 256, 4),
            "embedding_size": 128,
            "gen_fraction": 0.25,
            "lr": 5e-4,
            "batch_size": 128,
        },
        {**_WORDPIECE, "seq_length": 128},
        10000,
    ),
    "electra-base": Preset(
        "arXiv 2003.10555, table 6; HuggingFace google/electra-base-discriminator",
        {
            **_ELECTRA,
            **_sizes(12, 768, 12),
            "gen_d_model": 256,
            "gen_d_ff": 1024,
            "gen_num_heads": 4,
            "lr": 2e-4,
            "batch_size": 256,
        },
        _WORDPIECE,
        10000,
    ),
    "gpt2": Preset(
        "sizes: the GPT-2 report, HuggingFace openai-community/gpt2; learning rate, weight decay, "
        "beta2 and warm-up: nanoGPT's reproduction",
        {
            "objective": "clm",
            **_LEARNED,
            "max_positions": 1024,
            **_sizes(12, 768, 12),
            "embeddings_reduction": "sum",
            "transformer_type": "pre-layer-norm",
            "activation": "gelu",
            "layer_norm_eps": 1e-5,
            "mlm_head": "none",
            "output_bias": False,
            "tie_weights": True,
            "mask_pad": False,
            "dropout": 0.1,
            "embeddings_dropout": 0.1,
            "weight_init": "bert",
            "weight_std": 0.02,
            "residual_scaling": True,
            "optimizer": "adamw",
            "lr": 6e-4,
            "lr_schedule": "cosine",
            "lr_end": 0.1,
            "weight_decay": 0.1,
            "beta1": 0.9,
            "beta2": 0.95,
            "eps": 1e-8,
            "batch_size": 512,
        },
        {
            "subword_type": "byte-bpe",
            "cased": True,
            "vocab_size": 50000,
            "seq_length": 1024,
            "eol_token": "</s>",
        },
        2000,
    ),
    "convert": Preset(
        "arXiv 1911.03688, section 3; learning rate: ours",
        {
            "objective": "dual-encoder",
            **_sizes(6, 512, 2),
            "d_k": 64,
            "position_encoding": ["modular", "convert"],
            "rpr_k": [3, 5, 48, 48, 48, 48],
            "reduction_type": "2ha",
            "reduction_d_k": 64,
            "stacking_layers": [1024, 1024, 1024],
            "d_out": 512,
            "loss": "all_mean",
            "scale_examples": 5_120_000,
            "dropout": 0.1,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 1e-5,
            "batch_size": 512,
        },
        {
            **_BPE,
            "vocab_size": 31476,
            "extra_tokens": ["[CLS]", "[MASK]", "<EOU>"],
            "special_tokens": ["<EOU>"],
            "pairs": "ntp",
            "last_turn_only": True,
            "seq_length": 60,
            "seq_length_y": 60,
        },
        10000,
        "8-bit quantized parameters, AdaDelta, label smoothing 0.2",
    ),
    "t5-small": Preset(
        "arXiv 1910.10683; HuggingFace google-t5/t5-small",
        {
            "objective": "seq2seq",
            "denoise": "spans",
            "noise_density": 0.15,
            "mean_span": 3.0,
            **_sizes(6, 512, 8),
            "d_k": 64,
            "num_decoder_layers": 6,
            "position_encoding": ["t5"],
            "share_positions": True,
            "transformer_type": "pre-layer-norm",
            "norm_type": "rms-norm",
            "layer_norm_eps": 1e-6,
            "activation": "relu",
            "tie_weights": True,
            "dropout": 0.1,
            "ffn_pdrop": 0.1,
            "embeddings_dropout": 0.1,
            "optimizer": "adafactor",
            "lr": 0.01,
            "lr_schedule": "rsqrt",
            "weight_decay": 0.0,
            "batch_size": 128,
        },
        {**_BPE, "vocab_size": 32000, "seq_length": 512, "eol_token": None},
        10000,
        "linear layers without biases; SentencePiece",
    ),
    "modernbert-base": Preset(
        "arXiv 2412.13663; HuggingFace answerdotai/ModernBERT-base",
        {**_MODERNBERT, **_sizes(22, 768, 12, 1152), "lr": 8e-4, "batch_size": 4608},
        _MODERNBERT_TEXT,
        None,
        _MODERNBERT_MISSING,
    ),
    "modernbert-large": Preset(
        "arXiv 2412.13663; HuggingFace answerdotai/ModernBERT-large",
        {**_MODERNBERT, **_sizes(28, 1024, 16, 2624), "lr": 5e-4, "batch_size": 4928},
        _MODERNBERT_TEXT,
        None,
        _MODERNBERT_MISSING,
    ),
    "modernbert-small": Preset(
        "architecture: arXiv 2412.13663; sizes, learning rate, initial weights: ours",
        {
            **_MODERNBERT,
            **_sizes(7, 384, 6, 576),
            "lr": 1e-3,
            "weight_std": 0.03,
            "batch_size": 256,
        },
        {**_SMALL_TEXT, "vocab_size": 30000, "seq_length": 256},
        None,
        _MODERNBERT_MISSING,
    ),
    "modernbert-tiny": Preset(
        "architecture: arXiv 2412.13663; sizes, learning rate, initial weights: ours",
        {
            **_MODERNBERT,
            **_sizes(4, 128, 2, 192),
            "lr": 2e-3,
            "weight_std": 0.06,
            "batch_size": 128,
        },
        {**_SMALL_TEXT, "vocab_size": 8192, "seq_length": 128},
        None,
        _MODERNBERT_MISSING,
    ),
}


def preset_option(**declared: Any) -> Any:
    """The option `preset` of a command."""
    return opt(
        None,
        "published model whose sizes and training options are the defaults",
        unit="name",
        choices=tuple(PRESETS),
        basic=True,
        also_called=("model_type", "model_size"),
        **declared,
    )


def preset_values(
    name: str, known: Collection[str], *, text: bool, steps: int | None = None
) -> dict[str, Any]:
    """The values of a preset for the options `known` of a command.

    text: for a command that makes vocabularies or datasets; steps: of the run, where given.
    """
    preset = PRESETS[name]
    # Sizes of the text serve plan too, where no dataset gives them.
    values = dict(preset.text) if text else {**preset.values, **_plan_sizes(preset)}
    if not text and preset.warmup is not None and steps is not None and steps >= 10 * preset.warmup:
        values["warmup_steps"] = preset.warmup
    if "vocab" in known and values.get("subword_type") in _LEARNED_ONLY:
        del values["subword_type"]  # the files at --vocab say what they are
    return {option: value for option, value in values.items() if option in known}


# Kinds that are learned into a tokenizer.json, which preprocess reads as such. What else a preset
# says of a tokenizer (`cased`, `extra_tokens`, other kinds) is for files that leave it open: see
# `make_tokenizer`.
_LEARNED_ONLY = ("byte-bpe", "unigram")


def _plan_sizes(preset: Preset) -> dict[str, Any]:
    names = ("seq_length", "seq_length_y", "vocab_size")
    return {name: preset.text[name] for name in names if name in preset.text}
