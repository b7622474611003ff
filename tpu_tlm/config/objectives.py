"""Options of the pre-training objectives."""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass
from typing import Any, Literal, TypeVar, get_args

from tpu_tlm.config.options import OptionGroup, opt
from tpu_tlm.errors import OptionError

T = TypeVar("T")

ObjectiveName = Literal["mlm", "clm", "dual-encoder", "seq2seq", "electra", "discriminator"]
OBJECTIVES: tuple[str, ...] = get_args(ObjectiveName)

ContrastiveLoss = Literal["contrastive", "symmetric", "triplet", "all", "all_mean"]
LabelOne = Literal["replaced", "original"]

MASKED = {"objective": ("mlm", "electra")}
DUAL_ENCODER = {"objective": ("dual-encoder",)}
SEQ2SEQ = {"objective": ("seq2seq",)}
ELECTRA = {"objective": ("electra",)}


@dataclass(frozen=True)
class MlmConfig(OptionGroup):
    """Masking (mlm, electra)."""

    mask_rate: float = opt(
        0.15,
        "fraction of the maskable tokens that are predicted in training",
        unit="fraction",
        above=0,
        maximum=1,
        only_with=MASKED,
        may_change=True,
        also_called=("mlm_probability", "masked_lm_prob"),
    )
    eval_mask_rate: float = opt(
        0.15,
        "fraction of the maskable tokens that are predicted in evaluation, where masks are fixed",
        unit="fraction",
        above=0,
        maximum=1,
        only_with=MASKED,
        may_change=True,
    )
    mask_mode: Literal["token", "whole-word", "span"] = opt(
        "token",
        "unit of masking: single tokens, whole words, or spans of words",
        only_with=MASKED,
    )
    mask_token_rate: float = opt(
        0.8,
        "fraction of the predicted tokens that are replaced by the mask token",
        unit="fraction",
        minimum=0,
        maximum=1,
        only_with=MASKED,
    )
    mask_random_rate: float = opt(
        0.1,
        "fraction of the predicted tokens that are replaced by a random token; the rest is kept",
        unit="fraction",
        minimum=0,
        maximum=1,
        only_with=MASKED,
    )
    span_mean: float = opt(
        3.8,
        "mean length of a masked span",
        unit="words",
        minimum=1,
        only_with={**MASKED, "mask_mode": ("span",)},
    )
    span_max: int = opt(
        10,
        "maximum length of a masked span",
        unit="words",
        minimum=1,
        only_with={**MASKED, "mask_mode": ("span",)},
    )

    def check(self) -> None:
        if self.mask_token_rate + self.mask_random_rate > 1.0 + 1e-9:
            raise OptionError(
                f"--mask_token_rate {self.mask_token_rate} and --mask_random_rate "
                f"{self.mask_random_rate}: their sum must be at most 1"
            )


@dataclass(frozen=True)
class ContrastiveConfig(OptionGroup):
    """Loss of a dual encoder."""

    loss: ContrastiveLoss = opt(
        "symmetric",
        "contrastive: cross entropy of the right response; symmetric: mean of that and of the "
        "right query; triplet: hinge with --margin; all, all_mean: ConveRT's sum or mean, with a "
        "scale that rises over --scale_examples",
        only_with=DUAL_ENCODER,
    )
    margin: float = opt(
        0.2,
        "triplet: required difference in cosine between the right and a wrong pair",
        unit="cosine",
        minimum=0,
        maximum=2,
        only_with={**DUAL_ENCODER, "loss": ("triplet",)},
    )
    learn_temp: bool = opt(
        True,
        "contrastive, symmetric: train the scale of the similarities (at most 100)",
        only_with={**DUAL_ENCODER, "loss": ("contrastive", "symmetric")},
    )
    scale_examples: int = opt(
        2_560_000,
        "all, all_mean: number of examples over which the scale rises from 1 to sqrt(d_out)",
        unit="examples",
        minimum=1,
        maximum=2**53,
        only_with={**DUAL_ENCODER, "loss": ("all", "all_mean")},
    )


@dataclass(frozen=True)
class DenoisingConfig(OptionGroup):
    """Corruption for an encoder-decoder."""

    denoise: Literal["none", "spans", "infilling"] = opt(
        "none",
        "none: train on pairs (x to y); spans: T5's span corruption with sentinel tokens; "
        "infilling: BART's text infilling",
        only_with=SEQ2SEQ,
    )
    noise_density: float | None = opt(
        None,
        "fraction of the tokens that are removed; none = 0.15 for spans, 0.3 for infilling",
        unit="fraction",
        above=0,
        below=1,
        only_with={**SEQ2SEQ, "denoise": ("spans", "infilling")},
    )
    mean_span: float = opt(
        3.0,
        "mean length of a removed span",
        unit="tokens",
        minimum=1,
        only_with={**SEQ2SEQ, "denoise": ("spans", "infilling")},
    )
    sentinels: int | None = opt(
        None,
        "ids added after the vocabulary: one that starts and ends a denoised text and one per "
        "span; none = as many as an example needs, 0 for pairs",
        unit="ids",
        minimum=0,
        only_with=SEQ2SEQ,
    )


@dataclass(frozen=True)
class ElectraConfig(OptionGroup):
    """ELECTRA."""

    gen_fraction: float = opt(
        0.25,
        "size of the generator (width, feed-forward, heads) relative to the discriminator's",
        unit="fraction",
        above=0,
        maximum=1,
        only_with=ELECTRA,
    )
    gen_d_model: int | None = opt(
        None,
        "width of the generator; none = from --gen_fraction",
        unit="units",
        minimum=1,
        only_with=ELECTRA,
    )
    gen_d_ff: int | None = opt(
        None,
        "feed-forward width of the generator; none = from --gen_fraction",
        unit="units",
        minimum=1,
        only_with=ELECTRA,
    )
    gen_num_heads: int | None = opt(
        None,
        "attention heads of the generator; none = from --gen_fraction",
        unit="heads",
        minimum=1,
        only_with=ELECTRA,
    )
    gen_num_layers: int | None = opt(
        None,
        "blocks of the generator; none = as many as the discriminator",
        unit="layers",
        minimum=1,
        only_with=ELECTRA,
    )
    disc_weight: float = opt(
        50.0,
        "weight of the discriminator's loss; the generator's has weight 1",
        unit="number",
        minimum=0,
        only_with=ELECTRA,
    )
    label_one: LabelOne = opt(
        "replaced",
        "discriminator: meaning of label 1 in the records (MEAD's records: original)",
        only_with={"objective": ("discriminator",)},
    )


# Every option class above: a new one only has to be written there.
OBJECTIVE_OPTIONS: tuple[type[OptionGroup], ...] = tuple(
    value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, OptionGroup) and is_dataclass(value)
)


def group_name(options: type) -> str:
    """Name of an option class as an attribute: `MlmConfig` is `mlm`."""
    return options.__name__.removesuffix("Config").lower()


class ObjectiveOptions:
    """One instance of every option class of the objectives; an objective reads its own.

    `options.mlm.mask_rate` and `options[MlmConfig].mask_rate` are the same. Instances are given in
    any order, or by name (`ObjectiveOptions(mlm=MlmConfig(mask_rate=0.3))`); a class that is not
    given has its defaults. Raises TypeError for anything else.
    """

    def __init__(self, *instances: Any, **named: Any) -> None:
        classes = {group_name(cls): cls for cls in OBJECTIVE_OPTIONS}
        for instance in instances:
            named.setdefault(group_name(type(instance)), instance)
        for name, instance in named.items():
            if name not in classes or not isinstance(instance, classes[name]):
                raise TypeError(f"{name}: {instance!r} is not an objective's options")
        self.__dict__.update({name: named.get(name, cls()) for name, cls in classes.items()})

    def __getitem__(self, options: type[T]) -> T:
        return self.__dict__[group_name(options)]  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no objective has options called {name!r}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectiveOptions) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.values()))

    def __repr__(self) -> str:
        return f"ObjectiveOptions({', '.join(map(repr, self.__dict__.values()))})"

    def instances(self) -> tuple[Any, ...]:
        """The instances, in the order of `OBJECTIVE_OPTIONS`."""
        return tuple(self.__dict__.values())
