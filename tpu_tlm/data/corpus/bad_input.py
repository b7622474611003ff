"""Counts of input that was left out or repaired, with the first places of each kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tpu_tlm.errors import UsageError

_EXAMPLES = 5


@dataclass
class BadInput:
    """Input that was left out or repaired: how often per kind, and the first places of each."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, where: Callable[[], str], fix: str, strict: bool) -> None:
        """Count one; under `strict` raise `UsageError` naming the place instead."""
        if strict:
            raise UsageError(f"{where()}: {kind} (--strict): {fix}")
        self.counts[kind] = self.counts.get(kind, 0) + 1
        seen = self.examples.setdefault(kind, [])
        if len(seen) < _EXAMPLES:
            seen.append(where())

    def merge(self, other: BadInput) -> None:
        """Add another part's counts to these."""
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            seen = self.examples.setdefault(kind, [])
            seen.extend(other.examples.get(kind, [])[: _EXAMPLES - len(seen)])

    def summary(self) -> list[str]:
        """One line per kind: its count and its first places; empty when the input was clean."""
        lines = []
        for kind, count in sorted(self.counts.items()):
            seen = self.examples[kind]
            more = ", ..." if count > len(seen) else ""
            lines.append(f"{kind}: {count:,} ({', '.join(seen)}{more})")
        return lines
