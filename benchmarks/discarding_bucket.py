"""A bucket on loopback that counts what is uploaded and throws it away, for measurements.

    with DiscardingBucket(rate=50e6) as bucket:
        ... of "gs://bucket/..." with bucket.environ

The server of the tests takes 26 processor seconds for an object of 1.3 GB, on the cores of whoever
is measured. Here an upload in requests is read into one buffer, at `rate`, and only its length and
checksum are kept; everything else is answered by the server of the tests.
"""

from __future__ import annotations

import base64
import json
import re
import time
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import google_crc32c

from tests.bucket import NAME, Bucket, Gate

_PIECE = 1 << 20


class DiscardingBucket(Bucket):
    """Keeps of an upload in several requests (objects over 8 MB) an empty object of its name.

    `received`: bytes that came in such uploads. The object is listed as empty, and a reader gets
    nothing; the writer is answered with the length and CRC-32C of what it sent.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__(rate=rate)
        self.received = 0
        self._checksums: dict[str, Any] = {}
        self._free_at = 0.0

    def handler(self) -> type[Gate]:
        return type("_Discarding", (_Discarding,), {"bucket": self})

    def take(self, session: str, piece: memoryview) -> None:
        """Count a piece of an upload, and wait as long as it takes at `rate`."""
        self._checksums.setdefault(session, google_crc32c.Checksum()).update(bytes(piece))
        with self.wire:
            self.received += len(piece)
            if self.rate:
                now = time.monotonic()
                self._free_at = max(now, self._free_at) + len(piece) / self.rate
                time.sleep(self._free_at - now)

    def finish(self, session: str, size: int) -> tuple[int, list[tuple[str, str]], bytes]:
        """Make the empty object; the answer names what was sent."""
        asked = parse_qs(urlsplit(self.sessions[session]).query)
        where = f"/upload/storage/v1/b/{NAME}/o?uploadType=media&name={quote(asked['name'][0])}"
        status, headers, answer = self.ask("POST", where, b"", {"content-type": "text/plain"})
        told = json.loads(answer)
        digest = self._checksums.pop(session).digest()
        told |= {"size": str(size), "crc32c": base64.b64encode(digest).decode()}
        told.pop("md5Hash", None)
        return status, headers, json.dumps(told).encode()


class _Discarding(Gate):
    bucket: DiscardingBucket

    def do_PUT(self) -> None:
        session = parse_qs(urlsplit(self.path).query).get("upload_id", [""])[0]
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", self.headers.get("content-range", ""))
        if session not in self.bucket.sessions or found is None:
            self._any()
            return
        first, last, total = map(int, found.groups())
        left, buffer = last + 1 - first, memoryview(bytearray(_PIECE))
        while left:
            count = self.rfile.readinto(buffer[: min(left, _PIECE)])  # type: ignore[attr-defined]
            if not count:
                raise ConnectionError("an upload ended early")
            self.bucket.take(session, buffer[:count])
            left -= count
        if last + 1 < total:
            self._answer(308, [("Range", f"bytes=0-{last}")], b"")
        else:
            self._answer(*self.bucket.finish(session, total))
