"""What a position encoding states about itself: options, tables, cost, longest input, layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.attention import MultiHeadedAttention
from tpu_tlm.models.layers.embeddings import LookupTableEmbeddings


class Table(NamedTuple):
    """A learned table of a position encoding.

    `name`: last part of its variables' paths, unique among all encodings. A name that ends in
    `bias` starts at zero and never decays; any other starts as `weight_init` says: a truncated
    normal, or (`mead`) uniform within `mead_uniform`, where None is Glorot's limit.
    `mead_key`: last part of its key in MEAD's NPZ files; None where MEAD has no such table (it is
    then stored under a key of our own).
    """

    name: str
    mead_key: str | None = None
    mead_uniform: float | None = None


class PositionEncoding:
    """A position encoding; one stateless instance per name.

    `options`: the fields of `ModelConfig` that it reads; for other encodings they are idle.
    """

    options: ClassVar[tuple[str, ...]] = ()
    all_tables: ClassVar[tuple[Table, ...]] = ()

    def tables(
        self, config: ModelConfig, layer: int = 0, *, cross: bool = False
    ) -> tuple[Table, ...]:
        """The tables of the embeddings, or of the attention of one layer.

        `cross`: of cross attention. Those of `all_tables` that exist with this configuration.
        """
        return self.all_tables

    def max_length(self, config: ModelConfig, seq_length: int) -> int | None:
        """Largest number of positions of an input; None: no limit.

        `seq_length`: that of the training examples.
        """
        return None


class AbsoluteEncoding(PositionEncoding, ABC):
    """A position encoding that acts on the embeddings of tokens."""

    @abstractmethod
    def embeddings(
        self, config: ModelConfig, rows: int, seq_length: int, **kwargs: Any
    ) -> LookupTableEmbeddings:
        """The token embeddings with positions; `rows` of the token table, Keras' `kwargs`."""


class RelativeEncoding(PositionEncoding, ABC):
    """A position encoding that acts in attention.

    `in_cross_attention`: whether it acts there too; cross attention is plain otherwise.
    """

    in_cross_attention: ClassVar[bool] = False

    @abstractmethod
    def attention(
        self, config: ModelConfig, layer: int, *, causal: bool, cross: bool, **kwargs: Any
    ) -> MultiHeadedAttention:
        """The attention of one layer; `kwargs` are those of `MultiHeadedAttention`."""

    def multiply_adds(self, config: ModelConfig, layer: int, width: int, values: int) -> float:
        """Multiply-adds per query position that the encoding adds to one attention layer.

        `width`, `values`: columns of all queries and of all values of the layer.
        """
        return 0.0
