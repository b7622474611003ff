"""A toy corpus on disk: a WordPiece vocabulary and a dataset of format 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tpu_tlm.config import TokenizerConfig
from tpu_tlm.data.dataset.metadata import write_metadata
from tpu_tlm.data.dataset.records import token_layout, token_payload
from tpu_tlm.data.dataset.shards import shard_name, write_shard
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import make_tokenizer

WORDS = 40
# A run that writes its checkpoints and metrics alone. What else it writes takes a third of the time
# of a toy run; the shared run of `tests.toy_runs` has all of it.
BARE = ["--tensorboard", "false", "--report", "false", "--samples", "0"]
SIZES = ["--d_model", "32", "--d_ff", "64", "--num_heads", "2", "--num_layers", "1", "--rpr_k", "4"]


def _tokenizer(directory: Path, words: int) -> Tokenizer:
    directory.mkdir(parents=True)
    vocab = directory.parent / f"{directory.name}-vocab.txt"
    vocab.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(words))])
        + "\n"
    )
    tokenizer = make_tokenizer(TokenizerConfig(subword_type="wordpiece", vocab=str(vocab)))
    tokenizer.save(str(directory / "tokenizer"))
    return tokenizer


def _write(
    directory: Path,
    tokenizer: Tokenizer,
    x: np.ndarray,
    y: np.ndarray | None,
    shards: int,
    **told: Any,
) -> Path:
    payload = token_payload(x, x != tokenizer.pad_id, len(tokenizer.tokens), y)
    layout = token_layout(x.shape[1], len(tokenizer.tokens), None if y is None else y.shape[1])
    size = -(-len(x) // shards)
    written = [
        write_shard(
            str(directory), shard_name(i, shards), layout, [payload[i * size : (i + 1) * size]]
        )
        for i in range(shards)
    ]
    write_metadata(
        str(directory),
        {"nctx": x.shape[1], **told, "tokenizer": tokenizer.description()},
        layout,
        written,
    )
    return directory


def toy_dataset(
    directory: Path,
    *,
    examples: int = 96,
    seq_length: int = 16,
    shards: int = 3,
    seed: int = 0,
    words: int = WORDS,
) -> Path:
    """Write sentences that count upwards: a masked word follows from its neighbors."""
    tokenizer = _tokenizer(directory, words)
    rng = np.random.default_rng(seed)
    ids = 5 + (rng.integers(0, words, (examples, 1)) + np.arange(seq_length)) % words
    return _write(directory, tokenizer, ids, None, shards)


def toy_pairs(
    directory: Path,
    *,
    examples: int = 96,
    seq_length: int = 16,
    seq_length_y: int = 12,
    shards: int = 3,
    seed: int = 0,
    words: int = WORDS,
) -> Path:
    """Write pairs of different lengths, padded at the end.

    x counts upwards; y, between [CLS] and [SEP], continues from its last word.
    """
    tokenizer = _tokenizer(directory, words)
    rng = np.random.default_rng(seed)
    first, m, n = (
        rng.integers(0, words, examples),
        rng.integers(3, seq_length + 1, examples),
        rng.integers(3, seq_length_y - 1, examples),
    )
    x = np.where(
        np.arange(seq_length) < m[:, None], 5 + (first[:, None] + np.arange(seq_length)) % words, 0
    )
    place = np.arange(seq_length_y)
    y = np.where(
        place <= n[:, None],
        5 + ((first + m)[:, None] + place - 1) % words,
        np.where(place == n[:, None] + 1, tokenizer.sep_id, 0),
    )
    y[:, 0] = tokenizer.cls_id
    return _write(
        directory,
        tokenizer,
        x,
        y,
        shards,
        pairs="tsv",
        nctx_y=seq_length_y,
        y_prefix="[CLS]",
        y_suffix="[SEP]",
    )


def toy_labels(
    directory: Path,
    *,
    examples: int = 96,
    seq_length: int = 16,
    shards: int = 3,
    seed: int = 0,
    words: int = WORDS,
    rate: float = 0.2,
) -> Path:
    """Write sentences that count upwards but for replaced words; y is 1 for those.

    Some are padded at the end, where y is 1, too.
    """
    tokenizer = _tokenizer(directory, words)
    rng = np.random.default_rng(seed)
    x = (rng.integers(0, words, (examples, 1)) + np.arange(seq_length)) % words
    y = rng.random(x.shape) < rate
    x = 5 + np.where(y, (x + rng.integers(1, words, x.shape)) % words, x)
    beyond = np.arange(seq_length) >= rng.integers(seq_length // 2, seq_length + 1, (examples, 1))
    return _write(
        directory,
        tokenizer,
        np.where(beyond, 0, x),
        (y | beyond).astype(np.int64),
        shards,
        pairs="tsv",
        nctx_y=seq_length,
    )
