"""The configuration of a training run: all groups of options in one object."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any, get_type_hints

from tpu_tlm.config.model import ModelConfig
from tpu_tlm.config.objectives import (
    OBJECTIVE_OPTIONS,
    ContrastiveConfig,
    DenoisingConfig,
    ElectraConfig,
    MlmConfig,
    ObjectiveOptions,
    group_name,
)
from tpu_tlm.config.optimizer import CONTINUED_RATE, OptimConfig, rate_of_size
from tpu_tlm.config.options import Option, OptionGroup, options_of
from tpu_tlm.config.presets import preset_values
from tpu_tlm.config.resolve import PRESET, Source, resolve
from tpu_tlm.config.text import TokenizerConfig
from tpu_tlm.config.training import DataConfig, RunConfig, RuntimeConfig
from tpu_tlm.errors import OptionError


@dataclasses.dataclass(frozen=True, init=False, eq=False)
class Config:
    """All options of a training run.

    Options are given flat, by the names of the flags, and read by group:

        config = Config(train_dir="data/train", run_dir="run", lr=1e-3, objective="clm")
        config.optim.lr

    A group may be given whole (`Config(optim=OptimConfig(lr=1e-3))`), but not together with options
    of it. Everything has a default. Raises `OptionError` naming the parameter for a value out of
    range, options that exclude each other, or one that the objective does not use.
    """

    data: DataConfig
    tokenizer: TokenizerConfig
    model: ModelConfig
    mlm: MlmConfig
    contrastive: ContrastiveConfig
    denoising: DenoisingConfig
    electra: ElectraConfig
    optim: OptimConfig
    run: RunConfig
    runtime: RuntimeConfig

    def __init__(self, *parts: OptionGroup, **options: Any) -> None:
        """Options by name. `parts`: groups in order, as the command line is parsed into them."""
        classes = _classes()
        whole = dict(zip(classes, parts, strict=False))
        whole |= {name: options.pop(name) for name in classes if name in options}
        for name, part in whole.items():
            if not isinstance(part, classes[name]):
                raise TypeError(f"{name} must be a {classes[name].__name__}, not {part!r}")
        if options or len(whole) < len(classes):
            given = Source(as_values(*whole.values()), explicit=False)
            made = dict(zip(classes, _resolved([given], options), strict=True))
            # Groups that no option touches stay the objects that were given.
            whole = made if options else {**made, **whole}
        for name in classes:
            object.__setattr__(self, name, whole[name])

    @classmethod
    def groups(cls) -> tuple[type[OptionGroup], ...]:
        """The classes of the groups, in the order of `parts`."""
        return tuple(_classes().values())

    @classmethod
    def preset(cls, name: str, **options: Any) -> Config:
        """The configuration of a preset ("bert-small"), with other options changed."""
        return cls(preset=name, **options)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], **options: Any) -> Config:
        """The configuration in a YAML file (a run's config.yaml, a recipe); `options` win over it.

        Raises `UsageError` naming file and key.
        """
        from tpu_tlm.config.files import load_values

        where = os.fspath(path)
        values = load_values(where, cls.groups())
        return cls(*_resolved([Source(values, where, explicit=False)], options))

    def to_yaml(self, path: str | os.PathLike[str] | None = None) -> str:
        """YAML text of all options, also written to a local file if `path` is given."""
        from tpu_tlm.config.files import dump

        text = dump(*self.parts())
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        return text

    def replace(self, **options: Any) -> Config:
        """A copy with other options; what they make idle goes back to its default.

        What a preset or a default gave here is not given there either.
        """
        groups = {name: options.pop(name) for name in _classes() if name in options}
        values = as_values(*(groups.get(n, getattr(self, n)) for n in _classes()))
        copy = Config(*_resolved([Source(values, explicit=False)], options))
        before, after = self.as_dict(), copy.as_dict()
        for part, own in zip(copy.parts(), self.parts(), strict=True):
            kept = {n for n in own.given if after[n] == before[n]}
            new = {n for n in part.given if n in options or after[n] != before[n]}
            object.__setattr__(part, "given", frozenset(kept | new))
        return copy

    def parts(self) -> tuple[OptionGroup, ...]:
        """The groups in the order of `groups()`."""
        return tuple(getattr(self, name) for name in _classes())

    def as_dict(self) -> dict[str, Any]:
        """Option name -> value, flat."""
        return as_values(*self.parts())

    @property
    def given(self) -> frozenset[str]:
        """Names of the options that flags, a file or keywords gave: no defaults, no preset's."""
        return frozenset(name for part in self.parts() for name in part.given)

    @property
    def objectives(self) -> ObjectiveOptions:
        """The options of the objectives."""
        return ObjectiveOptions(*(getattr(self, group_name(cls)) for cls in OBJECTIVE_OPTIONS))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.parts() == other.parts()

    def __hash__(self) -> int:
        return hash(self.parts())


@functools.cache
def _classes() -> dict[str, type[OptionGroup]]:
    """Name -> class of every group; those of all objectives follow the model's."""
    hints = get_type_hints(Config)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(Config)}
    objectives = {group_name(cls): cls for cls in OBJECTIVE_OPTIONS}
    before = {name: fields[name] for name in ("data", "tokenizer", "model")}
    return {**before, **objectives, **fields}


def as_values(*parts: Any) -> dict[str, Any]:
    """Option name -> value of several groups, in the order of their fields."""
    return {f.name: getattr(part, f.name) for part in parts for f in dataclasses.fields(part)}


def _resolved(weaker: list[Source], options: Mapping[str, Any]) -> tuple[Any, ...]:
    return resolve(
        Config.groups(),
        with_presets(Config.groups(), [*weaker, Source(options)]),
        check_required=False,
    )


def with_presets(groups: tuple[type, ...], sources: list[Source]) -> list[Source]:
    """The sources, each with the preset that it names just below it."""
    from tpu_tlm.config.text import PreprocessConfig, VocabConfig

    table = options_of(groups)
    if "preset" not in table:
        return sources
    text = PreprocessConfig in groups or VocabConfig in groups
    steps = _last(table, sources, "steps")
    found: list[Source] = []
    for source in sources:
        named = f"{source.where}: preset" if source.where else "--preset"
        name = source.values.get("preset")
        # A resolved file holds every option besides: its preset changes nothing.
        if name is not None and (name := table["preset"].checked(name, named)) is not None:
            values = preset_values(name, table, text=text, steps=steps)
            found.append(Source(values, f"{PRESET}{name}"))
        found.append(source)
    return _with_lower_rate(_with_rate_of_size(found, table), table)


def _with_rate_of_size(sources: list[Source], table: Mapping[str, Option]) -> list[Source]:
    """The sources, with the rate of a small model below all where none of them gives one."""
    if "lr" not in table or "d_model" not in table:
        return sources
    if any(name in s.values for s in sources for name in ("lr", *table["lr"].declared.aliases)):
        return sources
    names = ("d_model", "num_layers", "optimizer")
    rate = rate_of_size(*(_last(table, sources, name, table[name].default) for name in names))
    if rate == table["lr"].default:
        return sources
    return [Source({"lr": rate}, f"{PRESET}of --d_model"), *sources]


def _with_lower_rate(sources: list[Source], table: Mapping[str, Option]) -> list[Source]:
    """The sources, with a lower learning rate for --init_from unless a file or a flag gives one."""
    preset = [s for s in sources if s.where.startswith("preset ")]
    given = [s for s in sources if s not in preset]
    continues = any(s.values.get("init_from") is not None for s in given)
    names = ("lr", *table["lr"].declared.aliases) if "lr" in table else ()
    if not continues or not names or any(name in s.values for s in given for name in names):
        return sources
    usual = next((s.values["lr"] for s in reversed(preset) if "lr" in s.values), None)
    rate = CONTINUED_RATE * float(table["lr"].default if usual is None else usual)
    return [*sources[:-1], Source({"lr": rate}, "preset of --init_from"), sources[-1]]


def _last(
    table: Mapping[str, Option], sources: list[Source], name: str, otherwise: Any = None
) -> Any:
    """The strongest value that a source gives an option, under any of its names."""
    if name not in table:
        return otherwise
    names = (name, *table[name].declared.aliases)
    values = [s.values[n] for s in sources for n in names if s.values.get(n) is not None]
    if not values:
        return otherwise
    try:
        return table[name].checked(values[-1])
    except OptionError:  # `resolve` reports it, naming its place
        return otherwise
