"""Make tests/data_files/hf_golden: tiny random models of `transformers`, inputs and outputs.

Run by hand where torch and transformers are installed (5.23 made the files); tests only read them:
python tests/make_hf_golden.py tests/data_files/hf_golden
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
ELECTRA: dict[str, Any] = {**SIZES, "embedding_size": 16, "max_position_embeddings": 20}
GPT2: dict[str, Any] = {
    "vocab_size": 99,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": None,
    "n_positions": 20,
}


def models() -> dict[str, Any]:
    """Name of the directory -> the model."""
    return {
        "bert": hf.BertForMaskedLM(hf.BertConfig(**SIZES, max_position_embeddings=20)),
        "bert_pretraining": hf.BertForPreTraining(
            hf.BertConfig(**SIZES, max_position_embeddings=20, hidden_act="gelu_new")
        ),
        "bert_encoder": hf.BertModel(
            hf.BertConfig(
                **SIZES, max_position_embeddings=20, hidden_act="relu", layer_norm_eps=1e-7
            )
        ),
        "roberta": hf.RobertaForMaskedLM(
            hf.RobertaConfig(
                **SIZES, max_position_embeddings=22, type_vocab_size=1, layer_norm_eps=1e-5
            )
        ),
        "electra_generator": hf.ElectraForMaskedLM(hf.ElectraConfig(**ELECTRA)),
        "electra_discriminator": hf.ElectraForPreTraining(hf.ElectraConfig(**ELECTRA)),
        "gpt2": hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, bos_token_id=0, eos_token_id=0)),
    }


def inputs(model: Any, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Four rows of 12 ids, padded but for GPT-2; token types where the model has several."""
    pad = model.config.pad_token_id
    x = rng.integers(5, SIZES["vocab_size"], (4, 12))
    mask = np.ones_like(x)
    if pad is not None and not isinstance(model, hf.GPT2LMHeadModel):
        for row, length in enumerate((12, 9, 5, 1)):
            x[row, length:], mask[row, length:] = pad, 0
    given = {"input_ids": x, "attention_mask": mask}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        given["token_type_ids"] = (np.arange(12) >= 6).astype(np.int64) * np.ones((4, 1), np.int64)
    return {name: torch.from_numpy(np.asarray(value, np.int64)) for name, value in given.items()}


def main(directory: Path) -> None:
    rng = np.random.default_rng(7)
    torch.manual_seed(7)
    for name, model in models().items():
        target = directory / name
        shutil.rmtree(target, ignore_errors=True)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(
                    parameter
                )  # so that no bias is zero and no norm is one
        model.eval()
        given = inputs(model, rng)
        with torch.no_grad():
            out = model(**given, output_hidden_states=True)
        found = {
            "hidden": out.hidden_states[-1]
            if out.get("hidden_states") is not None
            else out.last_hidden_state
        }
        for key in ("logits", "prediction_logits", "seq_relationship_logits", "pooler_output"):
            if out.get(key) is not None:
                found[key] = out[key]
        model.save_pretrained(target)
        (target / "generation_config.json").unlink(missing_ok=True)
        np.savez_compressed(
            target / "io.npz", **{key: value.numpy() for key, value in {**given, **found}.items()}
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
