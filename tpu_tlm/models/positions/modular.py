"""ConveRT's absolute positions: two learned tables, by position modulo two primes."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.embeddings import LookupTableEmbeddings, Start, positions_of
from tpu_tlm.models.positions.base import AbsoluteEncoding, Table

# Rows of the two tables: primes, so that a pair of rows repeats only after 517 positions.
_LONG, _SHORT = 47, 11


class ModularPositionalLookupTableEmbeddings(LookupTableEmbeddings):
    """table[x] + long[i mod 47] + short[i mod 11] (ConveRT, arXiv 1911.03688, 3.1).

    Learned positions for inputs of any length.
    """

    def __init__(self, rows: int, embedding_size: int, **kwargs: Any) -> None:
        super().__init__(rows, embedding_size, **kwargs)
        self.long = self.add_weight(
            name="positions_long",
            shape=(_LONG, embedding_size),
            initializer="zeros",
            autocast=False,
        )
        self.short = self.add_weight(
            name="positions_short",
            shape=(_SHORT, embedding_size),
            initializer="zeros",
            autocast=False,
        )

    def vectors(self, x: tf.Tensor, start: Start) -> tf.Tensor:
        positions = positions_of(x, start)
        # Tiny tables: a one-hot product needs no scatter in the backward pass.
        long, short = (
            tf.matmul(tf.one_hot(positions % t.shape[0], t.shape[0]), t)
            for t in (self.long, self.short)
        )
        return tf.gather(self.table, x) + (long + short)[None]


class Modular(AbsoluteEncoding):
    """`modular`: ConveRT's two tables; MEAD has no keys for them."""

    all_tables = (
        Table("positions_long", mead_uniform=0.1),
        Table("positions_short", mead_uniform=0.1),
    )

    def embeddings(
        self, config: ModelConfig, rows: int, seq_length: int, **kwargs: Any
    ) -> LookupTableEmbeddings:
        width = config.embedding_size or config.d_model
        return ModularPositionalLookupTableEmbeddings(rows, width, **kwargs)
