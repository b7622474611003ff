"""Entities in sequences of tags: IOB1, IOB2, IOBES and their errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Entity(NamedTuple):
    """A span of words [start, end) with its type."""

    kind: str
    start: int
    end: int


_PREFIXES = {"B", "I", "E", "S", "L", "U"}
# BILOU's names for the last word and for the only word of an entity.
_BILOU = {"L": "E", "U": "S"}


def scheme_of(labels: Iterable[str]) -> str | None:
    """`IOB` or `IOBES` when the labels are tags of entities, None when they are plain tags."""
    found, other = set(), False
    for label in labels:
        if label == "O":
            continue
        prefix, dash, kind = label.partition("-")
        if dash and kind and prefix in _PREFIXES:
            found.add(prefix)
        else:
            other = True
    if other or not found & {"B", "I"}:
        return None
    return "IOBES" if found & {"E", "S", "L", "U"} else "IOB"


def scheme_in(sentences: Iterable[Sequence[str]]) -> str | None:
    """The scheme of the tags of sentences: as `scheme_of`, and `IOB1` where entities begin with I
    and B stands only between two of one type that touch (CoNLL 2003 as it was published)."""
    found = list(sentences)
    scheme = scheme_of({tag for tags in found for tag in tags})
    if scheme != "IOB" or not any(broken(tags, "IOB") for tags in found):
        return scheme
    return scheme if any(broken(tags, "IOB1") for tags in found) else "IOB1"


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence's tags, by conlleval's rules.

    An entity begins at B or S, at I or E after another type or O, and after E or S; it ends before
    the next that begins, and before O. So IOB1, IOB2 and IOBES are read, and tags that break their
    scheme still have one meaning.
    """
    found: list[Entity] = []
    kind, start, closed = None, 0, False
    for at, tag in enumerate([*tags, "O"]):
        prefix, _, own = tag.partition("-")
        prefix = _BILOU.get(prefix, prefix)
        inside = prefix not in ("O", "") and own
        begins = inside and (prefix in ("B", "S") or own != kind or closed)
        if kind is not None and (not inside or begins):
            found.append(Entity(kind, start, at))
            kind = None
        if begins:
            kind, start = own, at
        closed = bool(inside) and prefix in ("E", "S")
    return found


def broken(tags: Sequence[str], scheme: str) -> list[int]:
    """Positions whose tag the scheme does not allow there: I or E that continues nothing, and with
    IOBES an entity that is not closed; with IOB1 a B that does not follow an entity of its type."""
    wrong = []
    previous, kind_before = "O", ""
    if scheme == "IOB1":
        kinds = [tag.partition("-")[2] for tag in tags]
        starts = [i for i, tag in enumerate(tags) if tag.startswith("B-")]
        return [i for i in starts if i == 0 or kinds[i - 1] != kinds[i]]
    for at, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        prefix = _BILOU.get(prefix, prefix)
        open_before = previous in (("B", "I") if scheme == "IOBES" else ("B", "I", "E", "S"))
        continues = prefix in ("I", "E") and open_before and kind == kind_before
        if prefix in ("I", "E") and not continues:
            wrong.append(min(at, len(tags) - 1))
        elif scheme == "IOBES" and open_before and not continues:
            wrong.append(at - 1)
        previous, kind_before = prefix, kind
    return sorted(set(wrong))


def entity_counts(
    gold: Sequence[Sequence[str]], guess: Sequence[Sequence[str]]
) -> dict[str, tuple[int, int, int]]:
    """For each type of entity (right, guessed, in the gold tags), exact spans."""
    counts: dict[str, list[int]] = {}
    for gold_tags, guess_tags in zip(gold, guess, strict=True):
        true, found = set(entities(gold_tags)), set(entities(guess_tags))
        for entity in true | found:
            own = counts.setdefault(entity.kind, [0, 0, 0])
            own[0] += entity in true and entity in found
            own[1] += entity in found
            own[2] += entity in true
    return {kind: (a, b, c) for kind, (a, b, c) in sorted(counts.items())}


def f1(right: int, guessed: int, present: int) -> tuple[float, float, float]:
    """(precision, recall, F1); 0 where there is nothing to divide by."""
    precision = right / guessed if guessed else 0.0
    recall = right / present if present else 0.0
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0
