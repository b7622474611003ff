"""Sizes of an ELMo (bidirectional LSTM on characters), and its ids of characters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Bytes of UTF-8 have ids 1 to 256: 0 is a position without a token.
SHIFT = 1
BEGIN_SENTENCE, END_SENTENCE, BEGIN_WORD, END_WORD, PADDING = (
    mark + SHIFT for mark in (256, 257, 258, 259, 260)
)
# Rows of the table in a file; that of id 0 is zero and stored nowhere.
CHARACTERS = 261


@dataclass(frozen=True)
class ElmoConfig:
    """Sizes and switches of AllenNLP's `options.json` (Peters et al. 2018, arXiv 1802.05365).

    characters: ids per token. character_size: width of a character's embedding. filters: width and
    number of each convolution. activation: relu or tanh. highway: number of highway layers.
    dim, projection: width of an LSTM's cell and of its output; projection == dim: no projection.
    layers: LSTM layers. cell_clip, proj_clip: largest absolute value of cell and output; None = no
    limit. skip: every layer but the first adds its input. projected: whether the character encoder
    ends with a projection to `projection` (without one, both widths are equal). layer_norm: of the
    layers before the mix, as AllenNLP or bilm-tf computes it; None = none.
    """

    characters: int
    character_size: int
    filters: tuple[tuple[int, int], ...]
    activation: str
    highway: int
    dim: int
    projection: int
    layers: int
    cell_clip: float | None = None
    proj_clip: float | None = None
    skip: bool = True
    projected: bool = True
    layer_norm: str | None = None

    @property
    def convolved(self) -> int:
        """Width of the convolutions' outputs together."""
        return sum(count for _, count in self.filters)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ElmoConfig:
        """The configuration of `dataclasses.asdict`. Raises TypeError or ValueError for others."""
        filters = tuple((int(width), int(count)) for width, count in values["filters"])
        return cls(**{**values, "filters": filters})


def sentence_mark(mark: int, characters: int) -> list[int]:
    """The ids of the token at the begin or end of a sentence."""
    return [BEGIN_WORD, mark, END_WORD] + [PADDING] * (characters - 3)
