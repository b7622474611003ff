"""Options of the objectives: what is asked of a model."""

from __future__ import annotations

from dataclasses import dataclass

from tpu_tlm.options import opt


@dataclass(frozen=True)
class MlmConfig:
    """Masked language modelling."""

    mask_rate: float = opt(0.15, "share of the maskable tokens to predict while training", unit="0..1")
    eval_mask_rate: float = opt(0.15, "the same in evaluation, where the masks are fixed", unit="0..1")
    mask_mode: str = opt("token", "what is masked as one", choices=("token", "whole-word", "span"))
    mask_token_rate: float = opt(0.8, "of the chosen tokens, share replaced by the mask token", unit="0..1")
    mask_random_rate: float = opt(0.1, "of the chosen tokens, share replaced by a random token; the rest stay", unit="0..1")
    span_mean: float = opt(3.8, "mean length of a span", unit="words")
    span_max: int = opt(10, "longest span", unit="words")
