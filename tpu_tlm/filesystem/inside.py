"""Names read from files: each may refer only to a regular file directly inside a directory."""

from __future__ import annotations

import os
import re
from typing import Any, BinaryIO

from tpu_tlm.errors import UsageError
from tpu_tlm.filesystem.errors import naming
from tpu_tlm.filesystem.regular import check_regular, open_regular

_LONGEST = 255  # bytes of a file name
# Of files that are written: letters, digits, dots, dashes, underscores; not hidden, not `..`.
_WRITTEN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")


def safe_join(directory: str, name: Any, source: str = "") -> str:
    """The path of `name` inside `directory`.

    name: as read from some file, so of any type and content. source: that file, for the message.
    Raises `UsageError` unless it is a plain name: no separator, no "..", not empty, no control
    character, encodable, at most 255 bytes.
    """
    if not _plain(name):
        where = f"{source}: names" if source else f"{directory}:"
        raise UsageError(
            f"{where} the file {_shown(name)}: only a plain name inside {directory or '.'} is taken"
        )
    return f"{directory.rstrip('/') or '/'}/{name}" if directory else name


def plain_name(name: object, where: str) -> str:
    """`name`, if a file may be written under it. Raises `UsageError` naming `where` otherwise.

    Stricter than `safe_join`: at most 200 ASCII letters, digits, dots, dashes and underscores, and
    not a hidden file.
    """
    if not isinstance(name, str) or not _WRITTEN.fullmatch(name):
        raise UsageError(
            f"{where}: {_shown(name)} is not a plain file name; such a file is not used"
        )
    return name


def _plain(name: Any) -> bool:
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name:
        return False
    if any(ord(char) < 32 or ord(char) == 127 for char in name):
        return False
    try:
        return len(name.encode("utf-8")) <= _LONGEST
    except UnicodeEncodeError:
        return False


def _shown(name: Any) -> str:
    text = ascii(name)
    return text if len(text) <= 120 else f"{text[:120]}..."


def check_inside(directory: str, name: Any, source: str = "") -> str:
    """`safe_join`, and a check that a regular file is there, not a link out of the directory.

    Raises `UsageError` also when it is missing. In object storage only the name is checked.
    """
    path = safe_join(directory, name, source)
    if "://" in path:
        return path
    with naming(path):
        real = _checked_target(path, directory or ".")
        check_regular(path, os.stat(real).st_mode)
    return path


def open_inside(directory: str, name: Any, source: str = "") -> BinaryIO:
    """Open a file for reading under the rules of `check_inside`, without a moment in between.

    Neither a FIFO nor a device is ever opened for reading, and none is waited for.
    """
    path = safe_join(directory, name, source)
    if "://" in path:
        from tpu_tlm import filesystem

        return filesystem.open_read(path)
    with naming(path):
        return open_regular(_checked_target(path, directory or "."), os.O_NOFOLLOW)


def read_inside(directory: str, name: Any, source: str = "", *, limit: int | None = None) -> bytes:
    """All bytes of a file under the rules of `check_inside`; `UsageError` above `limit` bytes."""
    with open_inside(directory, name, source) as file:
        path = safe_join(directory, name, source)
        with naming(path):
            data = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and len(data) > limit:
        raise UsageError(f"{path}: is larger than {limit:,} bytes: not a file of this kind")
    return data


def _checked_target(path: str, directory: str) -> str:
    """Where links lead; `UsageError` when that is outside of the directory."""
    real, inside = os.path.realpath(path), os.path.realpath(directory)
    allowed = [inside]
    snapshots, cache = os.path.split(os.path.dirname(inside))
    if cache == "snapshots":
        # HuggingFace's cache: snapshots/REVISION/NAME is a link to blobs/HASH.
        allowed.append(os.path.join(snapshots, "blobs"))
    if not any(os.path.dirname(real) == place or _below(real, place) for place in allowed):
        raise UsageError(
            f"{path}: is a link to {real}, out of its directory: put the file itself there"
        )
    return real


def _below(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")
