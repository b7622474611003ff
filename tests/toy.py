"""A toy corpus on disk, small enough for a training run in a test: a WordPiece vocabulary and a dataset of format 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tpu_tlm.config import TokenizerConfig
from tpu_tlm.data.records import token_layout, token_payload
from tpu_tlm.data.shards import shard_name, write_metadata, write_shard
from tpu_tlm.data.tokenizers import make_tokenizer

WORDS = 40
SIZES = ["--d_model", "32", "--d_ff", "64", "--num_heads", "2", "--num_layers", "1", "--rpr_k", "4"]


def toy_dataset(directory: Path, *, examples: int = 96, nctx: int = 16, shards: int = 3, seed: int = 0, words: int = WORDS) -> Path:
    """Write a dataset whose sentences count upwards, so that a masked word can be told from its neighbours."""
    directory.mkdir(parents=True)
    vocab = directory.parent / f"{directory.name}-vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(words))]) + "\n")
    tokenizer = make_tokenizer(TokenizerConfig(subword_type="wordpiece", vocab=str(vocab)))
    tokenizer.save(str(directory / "tokenizer"))
    rng = np.random.default_rng(seed)
    ids = 5 + (rng.integers(0, words, (examples, 1)) + np.arange(nctx)) % words
    payload = token_payload(ids, np.ones(ids.shape, bool), len(tokenizer.tokens))
    layout = token_layout(nctx, len(tokenizer.tokens))
    size = -(-examples // shards)
    written = [write_shard(str(directory), shard_name(i, shards), layout, [payload[i * size : (i + 1) * size]]) for i in range(shards)]
    write_metadata(str(directory), {"nctx": nctx, "tokenizer": tokenizer.description()}, layout, written)
    return directory
