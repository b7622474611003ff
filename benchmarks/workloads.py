"""The models and batches that training steps are timed on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """A BERT-like masked language model and its batch: rows x tokens, a fixed number of
    predictions a row, steps in one call.
    """

    vocab: int
    d_model: int
    layers: int
    heads: int
    d_ff: int
    rows: int = 32
    tokens: int = 128
    predictions: int = 20
    dropout: float = 0.1
    steps_per_call: int = 10


WORKLOADS = {
    "W1": Workload(vocab=8192, d_model=128, layers=2, heads=2, d_ff=512),
    "W2": Workload(vocab=30522, d_model=256, layers=4, heads=4, d_ff=1024),
    "short": Workload(
        vocab=8192, d_model=256, layers=4, heads=4, d_ff=1024, rows=64, tokens=16, predictions=3
    ),
}

# Kinds of dropout of the reference step. The fastest of the first two comes first: by
# processor time `tf.nn.dropout` took 0.98 of `stateless_dropout`'s step on W1, and 0.99 on W2.
DROPOUTS = ("stateful", "stateless", "none")
# Parts of our step that `--without` can leave out, to see what they cost.
PARTS = ("clipping", "dropout", "masks", "accuracy")
