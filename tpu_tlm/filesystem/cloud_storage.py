"""Google Cloud Storage (gs://) through google-cloud-storage, without TensorFlow.

Every call is retried with backoff until a deadline. Writes that must not meet another writer carry
a precondition on the object's generation. The answer to such a write can be lost and its repetition
refused although the object is ours: every conditional write leaves a random token in the object's
metadata, by which a refused writer recognizes its own success.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import os
import posixpath
import re
import tempfile
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, cast

from tpu_tlm.filesystem.base import WORKERS, FileSystem, Progress
from tpu_tlm.filesystem.cloud_errors import is_precondition, retry, translating
from tpu_tlm.filesystem.errors import StoreError

SCHEME = "gs://"
_WRITER = "tpu-tlm-writer"  # key of the token in an object's metadata
_CHUNK = 8 << 20  # bytes of a request when an object is streamed
_PIECE = 16 << 20  # bytes of a request when a large object is copied to the disk
_TIMEOUT = (10.0, 60.0)  # seconds to connect, and between bytes of an answer
_CONTENT = "application/octet-stream"


@functools.cache
def _client(process: int, emulator: str | None) -> Any:
    # A client's connections must not be shared with a forked process.
    from google.cloud import storage  # type: ignore[attr-defined]

    # Newer clients ask for the bucket's metadata in threads of their own, and again after a "not
    # found", for attributes of traces that nobody collects unless told to.
    if not os.environ.get("ENABLE_GCS_PYTHON_CLIENT_OTEL_TRACES"):
        os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    if emulator:
        from google.auth.credentials import AnonymousCredentials

        made = storage.Client(project="test", credentials=AnonymousCredentials())
    else:
        made = storage.Client()
    made._http.hooks["response"].append(_read_refusal)
    return made


def _read_refusal(response: Any, **_: Any) -> None:
    # A download reads the text of an error answer after the call that is tried again. Read here,
    # a connection that breaks within that text is a failed call like any other.
    if response.status_code >= 400:
        _ = response.content


def client() -> Any:
    """This process's client; STORAGE_EMULATOR_HOST, if set, names the server to talk to."""
    return _client(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST"))


def split(path: str) -> tuple[str, str]:
    """gs://BUCKET/OBJECT -> (BUCKET, OBJECT)."""
    bucket, _, name = path.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise FileNotFoundError(errno.ENOENT, f"{path} names no bucket")
    return bucket, name


class CloudStorage(FileSystem):
    """Objects; a directory is a prefix that ends with a slash."""

    def _blob(self, path: str, **options: Any) -> Any:
        bucket, name = split(path)
        if not name or name.endswith("/"):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return client().bucket(bucket).blob(name, **options)

    def _found(self, path: str) -> Any | None:
        """The object with its generation, size and metadata; None where there is none."""
        blob = self._blob(path)
        try:
            with translating(path):
                blob.reload(retry=retry(), timeout=_TIMEOUT)
        except FileNotFoundError:
            return None
        return blob

    def read(self, path: str) -> bytes:
        with translating(path):
            blob = self._blob(path)
            return bytes(blob.download_as_bytes(retry=retry(), timeout=_TIMEOUT))

    def read_range(self, path: str, start: int, size: int) -> bytes:
        if not size:
            return b""
        with translating(path):
            blob, last = self._blob(path), start + size - 1
            data = blob.download_as_bytes(start=start, end=last, retry=retry(), timeout=_TIMEOUT)
            return bytes(data)

    def open(self, path: str) -> BinaryIO:
        with translating(path):
            found = self._found(path)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, "No such object")
            # All reads of one stream are of one generation.
            stream = found.open(
                "rb",
                chunk_size=_CHUNK,
                if_generation_match=found.generation,
                retry=retry(),
                timeout=_TIMEOUT,
            )
        return cast(BinaryIO, stream)

    def write(self, path: str, data: bytes, version: int | None = None) -> int | None:
        def put(blob: Any) -> None:
            blob.upload_from_string(
                data, _CONTENT, if_generation_match=version, retry=retry(), timeout=_TIMEOUT
            )

        return self._put(path, put, version)

    def _put(self, path: str, put: Any, version: int | None) -> int:
        """Upload by `put(blob)`; with a version, a refusal of our own repetition is success."""
        token = uuid.uuid4().hex
        with translating(path):
            blob = self._blob(path)
            if version is not None:
                blob.metadata = {_WRITER: token}
            try:
                put(blob)
                return int(blob.generation)
            except Exception as error:
                if version is None or not is_precondition(error):
                    raise
            found = self._found(path)
            if found is not None and (found.metadata or {}).get(_WRITER) == token:
                return int(found.generation)
            raise FileExistsError(errno.EEXIST, "Changed by another process meanwhile")

    def version(self, path: str) -> int | None:
        found = self._found(path)
        return 0 if found is None else int(found.generation)

    @contextlib.contextmanager
    def replacing(self, path: str) -> Iterator[BinaryIO]:
        with translating(path):
            writer = self._blob(path, chunk_size=_CHUNK).open(
                "wb",
                content_type=_CONTENT,
                ignore_flush=True,
                retry=retry(),
                timeout=_TIMEOUT,
            )
            # An exception in the block ends the upload, and no object appears.
            with writer as stream:
                yield cast(BinaryIO, stream)

    def _list(self, directory: str, **options: Any) -> tuple[str, Any]:
        bucket, name = split(directory)
        prefix = f"{name.rstrip('/')}/" if name.rstrip("/") else ""
        found = client().list_blobs(
            bucket, prefix=prefix, retry=retry(), timeout=_TIMEOUT, **options
        )
        return prefix, found

    def sizes(self, directory: str) -> dict[str, int | None]:
        with translating(directory):
            prefix, found = self._list(directory, delimiter="/")
            names: dict[str, int | None] = {
                blob.name[len(prefix) :]: int(blob.size or 0) for blob in found
            }
            names |= {below[len(prefix) :].rstrip("/"): None for below in found.prefixes}
        names.pop("", None)  # the marker object of the directory itself
        return names

    def tree(self, directory: str) -> dict[str, int]:
        with translating(directory):
            prefix, found = self._list(directory)
            return {
                blob.name[len(prefix) :]: int(blob.size or 0)
                for blob in found
                if not blob.name.endswith("/")
            }

    def make(self, directory: str) -> None:
        # As the console does: an empty object keeps a directory without files in listings.
        if not self.is_directory(directory):
            bucket, name = split(directory)
            with translating(directory):
                marker = client().bucket(bucket).blob(f"{name.rstrip('/')}/")
                marker.upload_from_string(b"", _CONTENT, retry=retry(), timeout=_TIMEOUT)

    def is_directory(self, path: str) -> bool:
        with translating(path):
            _, found = self._list(path, max_results=1)
            exists = any(True for _ in found)
        # The root of a bucket is a directory, with objects or without: its listing was answered.
        return exists or not split(path)[1].rstrip("/")

    def exists(self, path: str) -> bool:
        return self.is_directory(path) or (not path.endswith("/") and self._found(path) is not None)

    def size(self, path: str) -> int:
        found = self._found(path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "No such object")
        return int(found.size)

    def find(self, pattern: str) -> list[str]:
        bucket, inside = split(pattern)
        fixed = re.split(r"[*?\[]", inside, maxsplit=1)[0]
        matches = re.compile(_expression(inside)).fullmatch
        with translating(pattern):
            found = client().list_blobs(bucket, prefix=fixed, retry=retry(), timeout=_TIMEOUT)
            return sorted(
                f"{SCHEME}{bucket}/{blob.name}"
                for blob in found
                if not blob.name.endswith("/") and matches(blob.name)
            )

    def remove(self, path: str) -> None:
        with translating(path):
            self._delete(self._blob(path))

    def remove_version(self, path: str, version: int) -> None:
        """Delete an object unless another process wrote it since it had this version."""
        with translating(path), contextlib.suppress(FileExistsError):
            self._delete(self._blob(path), if_generation_match=version)

    def _delete(self, blob: Any, **condition: Any) -> None:
        from google.cloud.exceptions import NotFound

        # Also after a lost answer: then it is gone.
        with contextlib.suppress(NotFound):
            blob.delete(retry=retry(), timeout=_TIMEOUT, **condition)

    def remove_tree(self, directory: str) -> None:
        with translating(directory):
            _, found = self._list(directory)
            with ThreadPoolExecutor(WORKERS) as pool:
                list(pool.map(self._delete, found))

    def send(self, local: str, path: str) -> None:
        def put(blob: Any) -> None:
            blob.upload_from_filename(
                local, _CONTENT, if_generation_match=0, retry=retry(), timeout=_TIMEOUT
            )

        self._put(path, put, 0)

    def fetch(self, path: str, local: str, progress: Progress | None = None) -> None:
        with translating(path):
            found = self._found(path)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, "No such object")
            if int(found.size) <= _PIECE:
                found.download_to_filename(local, retry=retry(), timeout=_TIMEOUT)
                return
            _fetch_pieces(found, local, progress)

    @contextlib.contextmanager
    def staged(self, directory: str) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="tpu_tlm_") as local:
            yield local
            self.upload(local, directory)

    @contextlib.contextmanager
    def local_copy(self, path: str) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="tpu_tlm_") as place:
            local = os.path.join(place, posixpath.basename(path.rstrip("/")) or "root")
            if self.is_directory(path):
                self.download(path, local)
            else:
                self.fetch(path, local)
            yield local


def _fetch_pieces(found: Any, local: str, progress: Progress | None) -> None:
    """Download an object in pieces, `WORKERS` at a time, and compare its CRC-32C."""
    import google_crc32c

    total, done, lock = int(found.size), 0, threading.Lock()

    def fetch(start: int) -> None:
        nonlocal done
        end = min(start + _PIECE, total) - 1
        match = {"if_generation_match": found.generation, "retry": retry(), "timeout": _TIMEOUT}
        data = bytes(found.download_as_bytes(start=start, end=end, **match))
        if len(data) != end + 1 - start:
            raise StoreError(errno.EIO, f"network: {len(data):,} bytes came of {end + 1 - start:,}")
        with open(local, "r+b") as file:
            file.seek(start)
            file.write(data)
        with lock:
            done += len(data)
            if progress is not None:
                progress(done, total)

    with open(local, "wb") as empty:
        empty.truncate(total)
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(fetch, range(0, total, _PIECE)))
    checksum = google_crc32c.Checksum()
    with open(local, "rb") as written:
        while data := written.read(1 << 20):
            checksum.update(data)
    if found.crc32c and base64.b64encode(checksum.digest()).decode() != found.crc32c:
        raise StoreError(errno.EIO, "network: what came has another CRC-32C than the object")


def _expression(pattern: str) -> str:
    """The regular expression of a glob, by the rules of Python's `glob`."""
    parts = []
    *above, last = pattern.split("/")
    for part in above:
        parts.append(r"(?:(?!\.)[^/]+/)*" if part == "**" else f"{_component(part)}/")
    parts.append(r"(?:(?!\.)[^/]+/)*(?!\.)[^/]+" if last == "**" else _component(last))
    return "".join(parts)


def _component(part: str) -> str:
    """Wildcards match neither a slash nor, at the beginning, a dot."""
    out, at = "" if part.startswith(".") else r"(?!\.)", 0
    while at < len(part):
        char, end = part[at], part.find("]", at + 2)
        at += 1
        if char == "[" and end > 0:
            inside = part[at:end].replace("\\", r"\\").replace("[", r"\[")
            out += f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
            at = end + 1
        else:
            out += {"*": "[^/]*", "?": "[^/]"}.get(char) or re.escape(char)
    return out
