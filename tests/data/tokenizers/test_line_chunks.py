"""Chunks of lines in one go, against the pattern that has them line by line."""

from __future__ import annotations

import random

import pytest

from tpu_tlm.data.tokenizers.chunks import SPACES, Chunker
from tpu_tlm.data.tokenizers.line_chunks import LineChunks
from tpu_tlm.data.tokenizers.word_index import PADDING

OTHERS = [space for space in SPACES if space != "\n"]  # lines have none
LETTERS = [*"aB~!\x7f\0\x1cé語ß\u200b😀\ufffd", "x" * 40]
TOKENS = {"<s>", "[mask]", "half width"}


def drawn(seed: int, spaces: list[str], tokens: list[str], count: int = 300) -> list[str]:
    """Lines of letters, white space and here and there a token."""
    draw = random.Random(seed)

    def character() -> str:
        chance = draw.random()
        if chance < 0.4:
            return draw.choice(spaces)
        return draw.choice(tokens) if tokens and chance < 0.42 else draw.choice(LETTERS)

    return ["".join(character() for _ in range(draw.randint(0, 25))) for _ in range(count)]


def chunks(divider: LineChunks, lines: list[str]) -> list[list[str]]:
    """What it divides the lines into."""
    words, ends = divider.words([line.encode() for line in lines])
    found = [word.decode() for word in words.to_list()]
    assert len(ends) == len(lines) + 1 and ends[0] == 0 and ends[-1] == len(found)
    if found:
        assert len(words.text) >= int(words.starts[-1] + words.lengths[-1]) + PADDING
    return [found[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]


@pytest.mark.parametrize("gpt2", [True, False])
@pytest.mark.parametrize(
    "spaces", [[" "], [" ", " ", " ", "\t"], OTHERS, [" ", "\xa0", "\u2003", "\u3000"]]
)
@pytest.mark.parametrize("tokens", [[], ["<s>", "[MASK]", "<\uff53>", "half width", "<", "s"]])
def test_they_are_those_of_each_line(gpt2: bool, spaces: list[str], tokens: list[str]) -> None:
    chunker = Chunker(gpt2, TOKENS, lowers=True)
    for seed in range(5):
        lines = ["", *drawn(seed, spaces, tokens), " ", "a ", " a", "a  b", ""]
        # An empty line has no ids, whether as one chunk or as none.
        expected = [[chunk for chunk in chunker(line) if chunk] for line in lines]
        assert chunks(LineChunks(chunker), lines) == expected
        if tokens:
            assert any(map(chunker.is_whole, lines)) and not all(map(chunker.is_whole, lines))


@pytest.mark.parametrize("gpt2", [True, False])
def test_edges(gpt2: bool) -> None:
    divider = LineChunks(Chunker(gpt2, {"<s>"}, lowers=False))
    assert chunks(divider, []) == []
    assert chunks(divider, [""]) == [[]]
    assert chunks(divider, ["a b<s>", "", "<s>"]) == [["a b<s>"], [], ["<s>"]]


@pytest.mark.parametrize("content", ["<s>", "\n", "b\n"])
def test_line_feeds_inside_lines_are_characters(content: str) -> None:
    chunker = Chunker(True, {content}, lowers=False)
    lines = ["a\nb", "\n\nc  d", "", "e f", "b<s>", "b\n"]
    expected = [[chunk for chunk in chunker(line) if chunk] for line in lines]
    assert chunks(LineChunks(chunker), lines) == expected


def test_a_token_is_found_within_a_line_only() -> None:
    """The end of one line and the beginning of the next are no token."""
    chunker = Chunker(True, {"a\nb", "a b"}, lowers=False)
    assert chunks(LineChunks(chunker), ["x a", "b y"]) == [["x", " a"], ["b", " y"]]
