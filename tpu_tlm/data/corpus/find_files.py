"""Files below a local directory that a pattern matches; each directory is visited once."""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_MAGIC = "*?["


@dataclass
class Search:
    """What a search found beside its files.

    `unreadable`: is called with a directory that cannot be listed, and the error. `skipped`: files
    that the pattern does not match, by suffix, `directories` that it does not enter, and `hidden`
    files, whose names begin with a dot, in the directories that were listed.
    """

    unreadable: Callable[[str, OSError], None]
    skipped: Counter[str] = field(default_factory=Counter)
    directories: int = 0
    hidden: int = 0

    def files(self, base: str, pattern: str) -> list[str]:
        """The files below `base` that the pattern matches, sorted.

        `*`, `?` and `[...]` match within a name, `**` any number of directories; names that begin
        with a dot are matched only by a pattern that does.
        """
        return sorted(set(self._match(base, pattern.split("/"), set())))

    def _match(self, base: str, parts: list[str], visited: set[tuple[int, int]]) -> Iterator[str]:
        first, rest = parts[0], parts[1:]
        if first == "**":
            try:
                here = os.stat(base or ".")
            except OSError as error:
                self.unreadable(base, error)
                return
            if (here.st_dev, here.st_ino) in visited:
                return
            visited.add((here.st_dev, here.st_ino))
            yield from self._match(base, rest or ["*"], set())
            for name, is_directory in self._entries(base):
                if is_directory and not name.startswith("."):
                    yield from self._match(_join(base, name), parts, visited)
            return
        if not any(char in first for char in _MAGIC):
            path = _join(base, first)
            if rest and os.path.isdir(path):
                yield from self._match(path, rest, set())
            elif not rest and os.path.exists(path) and not os.path.isdir(path):
                yield path
            return
        for name, is_directory in self._entries(base):
            if name.startswith(".") and not first.startswith("."):
                self.hidden += not rest and not is_directory
                continue
            matches = fnmatch.fnmatchcase(name, first)
            if rest:
                if matches and is_directory:
                    yield from self._match(_join(base, name), rest, set())
            elif is_directory:
                self.directories += 1
            elif matches:
                yield _join(base, name)
            else:
                self.skipped[os.path.splitext(name)[1] or name] += 1

    def _entries(self, directory: str) -> list[tuple[str, bool]]:
        """Names in a directory and whether each is a directory; real ones before links."""
        try:
            with os.scandir(directory or ".") as found:
                entries = [
                    (entry.is_symlink(), entry.name, _is_directory(entry)) for entry in found
                ]
        except OSError as error:
            self.unreadable(directory, error)
            return []
        return [(name, is_directory) for _, name, is_directory in sorted(entries)]


def split_pattern(path: str) -> tuple[str, str]:
    """The directory before the first part of a path with `*`, `?` or `[` in it, and the rest."""
    parts = path.split("/")
    at = next(i for i, part in enumerate(parts) if any(char in part for char in _MAGIC))
    return "/".join(parts[:at]) or ("/" if path.startswith("/") else ""), "/".join(parts[at:])


def _join(base: str, name: str) -> str:
    return os.path.join(base, name) if base else name


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
