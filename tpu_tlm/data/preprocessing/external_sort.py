"""External shuffle: examples are spilled in sorted chunks and merged in the order of their keys.

Every example has a 64-bit key that depends on the seed and its place in the corpus only, and the
order of the dataset is the order of the keys. So the order is the same however the work was
divided, and no step holds more than one chunk or one bucket.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpu_tlm import filesystem
from tpu_tlm.data.dataset.splitmix import draws, key_of
from tpu_tlm.data.preprocessing.writing import writing
from tpu_tlm.errors import TlmError
from tpu_tlm.filesystem.base import WORKERS

CHUNK_BYTES = 8 << 20
BUCKET_BYTES = 24 << 20
# Of a merge from object storage, where every read costs a request.
_REMOTE_BUCKET_BYTES = 96 << 20
_SAMPLE = 256  # one key of so many is used to choose the limits of the buckets
_PLACE_BITS = 40


@dataclass(frozen=True)
class SortedRun:
    """The spilled examples of one part of the corpus: `base`.rows and `base`.keys.

    `chunks`: rows in each chunk; rows are sorted by key within a chunk.
    """

    base: str
    chunks: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Examples in the run."""
        return sum(self.chunks)

    def is_whole(self, row_bytes: int) -> bool:
        """Whether both files have the size that the chunks add up to.

        Files of object storage are whole or absent, so they are not asked for.
        """
        if filesystem.is_remote(self.base):
            return True
        try:
            return (
                os.path.getsize(f"{self.base}.rows") == self.rows * row_bytes
                and os.path.getsize(f"{self.base}.keys") == self.rows * 8
            )
        except OSError:
            return False


class RunWriter:
    """Writes one run.

    part: the run's place in the corpus; key: seed of the shuffle, None keeps the corpus order.
    """

    def __init__(self, base: str, part: int, key: int | None) -> None:
        self._base = base
        self._part = part
        self._key = None if key is None else key_of(key, part)
        with writing(f"{base}.rows"):
            self._rows = open(f"{base}.rows", "wb")
            self._keys = open(f"{base}.keys", "wb")
        self._waiting: list[NDArray[np.uint8]] = []
        self._waiting_rows = 0
        self._written = 0
        self._chunks: list[int] = []

    def add(self, payload: NDArray[np.uint8]) -> None:
        """Append examples, uint8 [n, row_bytes]."""
        if len(payload):
            self._waiting.append(payload)
            self._waiting_rows += len(payload)
            if self._waiting_rows * payload.shape[1] >= CHUNK_BYTES:
                self._flush()

    def close(self) -> SortedRun:
        """Write the rest and return the finished run."""
        if self._waiting_rows:
            self._flush()
        with writing(f"{self._base}.rows"):  # closing writes what is buffered
            self._rows.close()
            self._keys.close()
        return SortedRun(self._base, tuple(self._chunks))

    def _flush(self) -> None:
        rows = np.concatenate(self._waiting)
        self._waiting, self._waiting_rows = [], 0
        if self._key is None:
            keys = np.arange(self._written, self._written + len(rows), dtype=np.uint64) + np.uint64(
                self._part << _PLACE_BITS
            )
        else:
            keys = draws(self._key, self._written, len(rows))
            order = np.argsort(keys, kind="stable")
            rows, keys = rows[order], keys[order]
        with writing(f"{self._base}.rows"):
            self._rows.write(rows.data)
            self._keys.write(keys.astype("<u8").data)
        self._written += len(rows)
        self._chunks.append(len(rows))


def read_chunks(run: SortedRun, row_bytes: int) -> Iterator[tuple[NDArray[np.uint64], Any]]:
    """The chunks of a run, each sorted by key: uint64 [n] and uint8 [n, row_bytes]."""
    with open(f"{run.base}.keys", "rb") as keys, open(f"{run.base}.rows", "rb") as rows:
        for count in run.chunks:
            sorted_keys = np.frombuffer(keys.read(8 * count), "<u8")
            data = np.frombuffer(rows.read(count * row_bytes), np.uint8)
            yield sorted_keys, data.reshape(count, row_bytes)


class ExternalMerge:
    """The examples of several runs in the order of their keys; any range can be read by itself.

    runs: in corpus order.
    """

    def __init__(self, runs: Sequence[SortedRun], row_bytes: int) -> None:
        self._runs = [run for run in runs if run.rows]
        self._row_bytes = row_bytes
        self.rows = sum(run.rows for run in self._runs)
        self._remote = any(filesystem.is_remote(run.base) for run in self._runs)
        # Mapped files without a name: the keys of remote runs, which every bucket needs.
        self._fetched: dict[str, NDArray[np.uint64]] = {}
        if self._remote:
            with ThreadPoolExecutor(WORKERS) as pool:
                self._fetched = dict(pool.map(_fetched_keys, self._runs))
        size = _REMOTE_BUCKET_BYTES if self._remote else BUCKET_BYTES
        buckets = max(1, -(-self.rows * row_bytes // size))
        sample = [self._keys(run)[::_SAMPLE] for run in self._runs]
        ordered = np.sort(np.concatenate(sample)) if sample else np.empty(0, np.uint64)
        # Bucket b holds the keys from limits[b - 1] on, below limits[b].
        self._limits = ordered[np.arange(1, buckets) * len(ordered) // buckets]
        below = np.zeros(len(self._limits), np.int64)
        for run in self._runs:
            for keys in self._chunks_of(run):
                below += np.searchsorted(keys, self._limits)
        self._ranks = np.concatenate([[0], below, [self.rows]])

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Examples of a range of the merged order within one bucket.

        Returns uint8 [stop - start, row_bytes].
        """
        bucket = int(np.searchsorted(self._ranks, start, side="right")) - 1
        keys, rows = self._load(bucket)
        first = int(self._ranks[bucket])
        order = np.argsort(keys, kind="stable")
        return rows[order[start - first : stop - first]]

    def ranges(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Cut a range of the merged order at the buckets' limits."""
        inner = self._ranks[(self._ranks > start) & (self._ranks < stop)]
        cuts = [start, *(int(rank) for rank in np.unique(inner)), stop]
        return [(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True) if a < b]

    def _load(self, bucket: int) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        count = int(self._ranks[bucket + 1] - self._ranks[bucket])
        keys = np.empty(count, np.uint64)
        rows = np.empty((count, self._row_bytes), np.uint8)
        low = self._limits[bucket - 1 : bucket] if bucket else None
        high = self._limits[bucket : bucket + 1] if bucket < len(self._limits) else None
        spans: list[_Span] = []
        place = 0
        for run in self._runs:
            at = 0
            for chunk in self._chunks_of(run):
                begin = int(np.searchsorted(chunk, low)[0]) if low is not None else 0
                end = int(np.searchsorted(chunk, high)[0]) if high is not None else len(chunk)
                if end > begin:
                    keys[place : place + end - begin] = chunk[begin:end]
                    start = (at + begin) * self._row_bytes
                    spans.append(
                        _Span(f"{run.base}.rows", start, rows[place : place + end - begin])
                    )
                    place += end - begin
                at += len(chunk)
        if self._remote:
            with ThreadPoolExecutor(WORKERS) as pool:
                list(pool.map(_Span.fetch, spans))
        else:
            for path, of_run in itertools.groupby(spans, lambda span: span.path):
                with open(path, "rb") as stream:
                    for span in of_run:
                        span.read(stream)
        return keys, rows

    def _keys(self, run: SortedRun) -> NDArray[np.uint64]:
        """The keys of a run; mapped, so that a search touches a few pages only."""
        if self._remote:
            return self._fetched[run.base]
        return np.memmap(f"{run.base}.keys", "<u8", mode="r")

    def _chunks_of(self, run: SortedRun) -> list[NDArray[np.uint64]]:
        """The sorted keys of each chunk."""
        return np.split(self._keys(run), np.cumsum(run.chunks)[:-1])


@dataclass(frozen=True)
class _Span:
    """Rows of a file from byte `start` on, and where they belong: uint8 [n, row_bytes]."""

    path: str
    start: int
    target: NDArray[np.uint8]

    def read(self, stream: Any) -> None:
        """Read them from the open file."""
        stream.seek(self.start)
        stream.readinto(self.target.data)

    def fetch(self) -> None:
        """Read them from object storage. Raises `TlmError` where the file is too short."""
        data = filesystem.read_range(self.path, self.start, self.target.nbytes)
        if len(data) != self.target.nbytes:
            raise TlmError(f"{self.path}: is shorter than its part: remove it and run again")
        self.target[:] = np.frombuffer(data, np.uint8).reshape(self.target.shape)


def _fetched_keys(run: SortedRun) -> tuple[str, NDArray[np.uint64]]:
    path = f"{run.base}.keys"
    with filesystem.naming(path), filesystem.of(path).open_local(path) as stream:
        keys = np.memmap(stream, "<u8", mode="r")
    if len(keys) != run.rows:
        raise TlmError(f"{path}: is shorter than its part: remove it and run again")
    return run.base, keys
