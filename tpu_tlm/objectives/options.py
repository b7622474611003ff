"""The options of all objectives as one value, without TensorFlow."""

from __future__ import annotations

from typing import Any, TypeVar

from tpu_tlm.config.objectives import OBJECTIVE_OPTIONS

T = TypeVar("T")


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
