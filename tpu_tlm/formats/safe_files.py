"""Which file inside a model directory may be opened or written under a name from a file."""

from __future__ import annotations

import os
import posixpath
import re

from tpu_tlm import filesystem
from tpu_tlm.errors import UsageError

# Letters, digits, dots, dashes, underscores; not a hidden file, not `..`.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")


def plain_name(name: object, where: str) -> str:
    """`name`, if it is a plain file name. Raises `UsageError` naming `where` otherwise.

    A plain name has no directory part, is not hidden, and consists of ASCII letters, digits,
    dots, dashes and underscores.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = repr(name) if len(repr(name)) < 80 else repr(name)[:76] + "..."
        raise UsageError(f"{where}: {shown} is not a plain file name; such a file is not used")
    return name


def file_inside(directory: str, name: object, where: str) -> str:
    """The path of the regular file `name` in `directory`, for reading.

    Raises `UsageError` when the name is not plain, there is no such file, it is not a regular
    file, or it is a link to a file outside `directory`. The links of HuggingFace's download
    cache (`snapshots/REVISION/NAME` -> `blobs/HASH` of the same repository) are allowed.
    """
    path = posixpath.join(directory, plain_name(name, where))
    if not filesystem.exists(path):
        raise UsageError(f"{where}: names {name}, but there is no {path}")
    if filesystem.is_remote(path):
        return path
    if not os.path.isfile(path):
        raise UsageError(f"{path}: is not a regular file")
    real, root = os.path.realpath(path), os.path.realpath(directory)
    allowed = [root]
    parent = os.path.dirname(root)
    if os.path.basename(parent) == "snapshots":
        allowed.append(os.path.join(os.path.dirname(parent), "blobs"))
    if os.path.dirname(real) not in allowed:
        raise UsageError(f"{path}: is a link to a file outside {directory}; copy the file there")
    return path
