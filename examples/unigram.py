"""The unigram model: what a model that knows only how frequent each token is would reach.

A trained one must be well below it.
"""

from __future__ import annotations

import numpy as np

from tpu_tlm.data.dataset.dataset import Dataset
from tpu_tlm.data.dataset.stream import in_order
from tpu_tlm.data.tokenizers.base import Tokenizer

_ROWS = 1024


def counts(dataset: Dataset, vocab_size: int) -> np.ndarray:
    """How often every id occurs in a dataset: int64 `[vocab_size]`."""
    total = np.zeros(vocab_size, np.int64)
    for batch in in_order(dataset, _ROWS):
        ids = batch["x"].numpy()[batch["valid"].numpy() > 0]
        total += np.bincount(ids.ravel(), minlength=vocab_size)
    return total


def unigram_loss(train: Dataset, valid: Dataset, tokenizer: Tokenizer) -> float:
    """Cross entropy (nats per token) of the unigram model of `train`, one added to every count,
    on the maskable tokens of `valid`.
    """
    maskable = np.ones(len(tokenizer.tokens), bool)
    maskable[list(tokenizer.special_ids)] = False
    known = (counts(train, len(maskable)) + 1.0)[maskable]
    seen = counts(valid, len(maskable))[maskable]
    return float(-(seen * np.log(known / known.sum())).sum() / seen.sum())
