"""Declaring options: names of earlier versions, values of lists, groups of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest

from tpu_tlm.config import cli
from tpu_tlm.config.options import OptionGroup, opt, options_of
from tpu_tlm.config.resolve import Source, resolve
from tpu_tlm.errors import OptionError, UsageError


@dataclass(frozen=True)
class Paint(OptionGroup):
    """Paint."""

    old_options: ClassVar[tuple[str, ...]] = ("gray",)

    colours: list[Literal["red", "green", "none"]] = opt(["red"], "colours", aliases=("colors",))
    depth: float = opt(1.0, "depth", above=0, only_with={"colours": ("green",)})
    size: int | None = opt(None, "size", minimum=2, maximum=8, conflicts=("scale",))
    scale: float = opt(2.0, "scale", minimum=1)
    name: str | None = opt(None, "name", shorthands={"anonymous": "nobody"})

    @staticmethod
    def translate_old_options(values, where, base):
        kept = {key: value for key, value in values.items() if key != "gray"}
        return {**kept, "colours": [*base.get("colours", []), "green"]}


def parsed(*argv: str) -> Paint:
    (paint,) = cli.parse("tpu_tlm.paint", "", [Paint], argv)
    return paint


def test_a_group_is_parsed_and_checked():
    assert parsed() == Paint()
    assert parsed("--colors", "red", "green", "--depth", "0.5").colours == ["red", "green"]
    assert parsed("--size", "none").size is None and parsed("--anonymous").name == "nobody"
    assert Paint(size="3").size == 3 and Paint(colours=("red",)).colours == ["red"]
    for bad in (
        ["--size", "9"],
        ["--depth", "2"],
        ["--size", "3", "--scale", "2"],
        ["--anonymous", "x"],
    ):
        with pytest.raises(UsageError, match=bad[0]):
            parsed(*bad)
    with pytest.raises(OptionError, match="^size 9: must be at least 2 and at most 8"):
        Paint(size=9)


def test_an_old_name_is_translated_on_top_of_weaker_sources():
    assert parsed("--gray", "1").colours == ["green"]
    sources = [Source({"colours": ["red"]}, "f", explicit=False), Source({"gray": "1"})]
    (paint,) = resolve([Paint], sources)
    assert paint.colours == ["red", "green"]


def test_a_weaker_value_gives_way():
    weak = {"size": 3, "colours": ["green"], "depth": 0.5}
    (paint,) = resolve([Paint], [Source(weak), Source({"scale": 3.0, "colours": ["red"]})])
    assert (paint.size, paint.scale, paint.depth) == (None, 3.0, 1.0)


def test_a_name_stands_in_one_group_only():
    @dataclass(frozen=True)
    class Other(OptionGroup):
        """Other."""

        size: int = opt(1, "size")

    with pytest.raises(TypeError, match="size is defined by Paint and Other"):
        options_of([Paint, Other])
