"""Options of the objectives: what is asked of a model."""

from __future__ import annotations

from dataclasses import dataclass

from tpu_tlm.config.cli import opt

LOSSES = ("contrastive", "symmetric", "triplet", "all", "all_mean")
LABEL_ONE = ("replaced", "original")


@dataclass(frozen=True)
class MlmConfig:
    """Masked language modelling."""

    mask_rate: float = opt(
        0.15, "share of the maskable tokens to predict while training", unit="0..1"
    )
    eval_mask_rate: float = opt(
        0.15, "the same in evaluation, where the masks are fixed", unit="0..1"
    )
    mask_mode: str = opt("token", "what is masked as one", choices=("token", "whole-word", "span"))
    mask_token_rate: float = opt(
        0.8, "of the chosen tokens, share replaced by the mask token", unit="0..1"
    )
    mask_random_rate: float = opt(
        0.1, "of the chosen tokens, share replaced by a random token; the rest stay", unit="0..1"
    )
    span_mean: float = opt(3.8, "mean length of a span", unit="words")
    span_max: int = opt(10, "longest span", unit="words")


@dataclass(frozen=True)
class ContrastiveConfig:
    """Dual encoder's loss."""

    loss: str = opt(
        "symmetric",
        "contrastive: the right response among all; symmetric: and the right query; triplet: nearer than the wrong ones by --margin; "
        "all, all_mean: ConveRT's sum or mean with a scale that rises by --scale_examples",
        choices=LOSSES,
    )
    margin: float = opt(
        0.2, "triplet: by how much the true pair must be nearer, in cosine", unit="0..2"
    )
    learn_temp: bool = opt(True, "contrastive, symmetric: the scale is learned, up to 100")
    scale_examples: int = opt(
        2_560_000,
        "all, all_mean: the scale rises from 1 to the root of d_out over so many examples of the run",
        unit="examples",
    )


@dataclass(frozen=True)
class DenoisingConfig:
    """Encoder-decoder's corruption."""

    denoise: str = opt(
        "none",
        "none: pairs (x is read, y is written); spans: T5's, sentinels stand for what is missing; "
        "infilling: BART's, the whole text is written",
        choices=("none", "spans", "infilling"),
    )
    noise_density: float | None = opt(
        None,
        "share of the tokens that are taken away; none = spans 0.15, infilling 0.3",
        unit="0..1",
    )
    mean_span: float = opt(3.0, "mean length of a span that is taken away", unit="tokens")
    sentinels: int | None = opt(
        None,
        "ids added behind the vocabulary: one that begins and ends a denoised text, and one for every span of an example; none = as "
        "many as are needed (pairs: 0; give the number of the model that --init_from starts from)",
        unit="ids",
    )


@dataclass(frozen=True)
class ElectraConfig:
    """ELECTRA: generator and weight of the discriminator."""

    gen_fraction: float = opt(
        0.25,
        "size of the generator (width, feed-forward, heads) as a share of the discriminator's",
        unit="0..1",
    )
    gen_d_model: int | None = opt(
        None, "width of the generator; none = by --gen_fraction", unit="units"
    )
    gen_d_ff: int | None = opt(
        None, "width inside its feed-forward layers; none = by --gen_fraction", unit="units"
    )
    gen_num_heads: int | None = opt(
        None, "its attention heads; none = by --gen_fraction", unit="heads"
    )
    gen_num_layers: int | None = opt(
        None, "its blocks; none = as many as the discriminator has", unit="layers"
    )
    disc_weight: float = opt(
        50.0, "weight of the discriminator's loss beside the generator's", unit="number"
    )
    label_one: str = opt(
        "replaced",
        "discriminator: what 1 says in the given labels (MEAD's say original); the model always learns 1 for replaced",
        choices=LABEL_ONE,
    )
