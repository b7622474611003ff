"""Text files that carry their own checksum, so that a changed byte is named.

The checksum stands in a comment on the last line, announced by a comment on the first: both are
YAML comments, and a file from which either was lost is damaged, not unsealed. Files of the first
edition have neither and are taken as they are.
"""

from __future__ import annotations

import hashlib
import re

from tpu_tlm.errors import UsageError

_FIRST = (
    b"# The last line is the SHA-256 of all lines before it; after a change by hand, delete both.\n"
)
_LAST = re.compile(rb"# sha256 ([0-9a-f]{64})\n\Z")


def sealed(text: bytes) -> bytes:
    """`text` (lines of YAML, the last one ended) between its announcement and its checksum."""
    body = _FIRST + text
    return body + b"# sha256 " + hashlib.sha256(body).hexdigest().encode() + b"\n"


def check_sealed(path: str, raw: bytes, restore: str) -> None:
    """Raise `UsageError` unless `raw` is as `sealed` made it, or was never sealed.

    restore: what to do, ends the message.
    """
    last = _LAST.search(raw[-80:])
    if last is None and not raw.startswith(_FIRST):
        # One damaged byte in either comment leaves the other, or a line that looks like it.
        lines = raw.split(b"\n", 1)[0], raw.rstrip(b"\n").rsplit(b"\n", 1)[-1]
        if not any(_resembles(line) for line in lines):
            return
    body = raw[: len(raw) - len(last[0])] if last else b""
    if last is None or hashlib.sha256(body).hexdigest().encode() != last[1]:
        raise UsageError(
            f"{path}: is damaged or was changed (it does not have the checksum it was written "
            f"with): {restore}"
        )


def _resembles(line: bytes) -> bool:
    """Whether a line is almost one of the two: a few bytes of it were changed."""
    wanted = _FIRST.rstrip(b"\n")
    if len(line) == len(wanted):
        return sum(a != b for a, b in zip(line, wanted, strict=True)) <= 3
    return re.match(rb".{0,2}\s?sha256 [0-9a-zA-Z]{60,70}$", line) is not None
