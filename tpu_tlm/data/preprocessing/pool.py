"""The work of a preprocessing, shared by processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tpu_tlm.data.corpus.documents import Part
from tpu_tlm.data.dataset.shards import Shard
from tpu_tlm.data.preprocessing.worker import PreprocessJob, Worker
from tpu_tlm.data.processes import METHOD, ProcessPool


class Stopped(Exception):
    """A task stops because another one failed."""


class PreprocessPool:
    """Calls `Worker`'s methods in `workers` processes (1: in this one).

    `consumed`: bytes read so far, by part; its last entry is a flag that stops tasks. The order of
    tasks and their distribution do not matter to the results.
    """

    def __init__(
        self, job: PreprocessJob, parts: int, workers: int, tick: Callable[[], None]
    ) -> None:
        inline = workers <= 1
        context = multiprocessing.get_context(METHOD)
        self.consumed: Any = [0] * (parts + 1) if inline else context.RawArray("q", parts + 1)
        on_read = tick if inline else None
        self._pool = ProcessPool(workers, _setup, job, self.consumed, on_read, tick=tick)

    def tokenize(self, parts: Iterable[Part]) -> Iterator[int]:
        """Tokenize parts; gives the index of each as it is finished."""
        return self._pool.run(_tokenize, ((part,) for part in parts))

    def write_shards(
        self, split: str, indices: Iterable[int], sizes: list[int], parts: int
    ) -> Iterator[Shard]:
        """Write shards of a split; gives each as it is finished."""
        return self._pool.run(_write_shard, ((split, index, sizes, parts) for index in indices))

    def close(self) -> None:
        """Stop what runs and end the processes."""
        self.consumed[-1] = 1
        self._pool.close()


def _setup(job: PreprocessJob, consumed: Any, on_read: Callable[[], None] | None) -> Any:
    return Worker(job), consumed, on_read


def _tokenize(state: Any, part: Part) -> int:
    worker, consumed, on_read = state

    def count(size: int) -> None:
        consumed[part.index] += size
        if consumed[-1]:
            raise Stopped
        if on_read:
            on_read()

    worker.tokenize(part, count)
    return part.index


def _write_shard(state: Any, split: str, index: int, sizes: list[int], parts: int) -> Shard:
    shard: Shard = state[0].write_shard(split, index, sizes, parts)
    return shard
