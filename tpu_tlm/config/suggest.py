"""Suggestions for a name that is not known: the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name nearest to `name`, or None where none is near."""
    plain = {one.lower().replace("-", "_"): one for one in known}
    wanted = name.lower().replace("-", "_")
    found = difflib.get_close_matches(wanted, plain, n=1, cutoff=0.6)
    if not found and len(wanted) >= 4:
        found = [one for one in plain if one.startswith(wanted)][:1]
    return plain[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean X?` for the nearest known name, else nothing."""
    near = nearest(name, known)
    return f"; did you mean {prefix}{near}?" if near else ""


def similarity(name: str, known: Iterable[str]) -> float:
    """The largest similarity of a name to known ones, from 0 to 1."""
    ratios = (difflib.SequenceMatcher(None, name, one).ratio() for one in known)
    return max(ratios, default=0.0)
