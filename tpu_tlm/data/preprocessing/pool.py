"""Processes that share the work of a preprocessing: no fork of a process that runs threads, none left behind."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from tpu_tlm.data.corpus.documents import Part
from tpu_tlm.data.dataset.shards import Shard
from tpu_tlm.data.preprocessing.start_method import METHOD
from tpu_tlm.data.preprocessing.worker import PreprocessJob, Worker
from tpu_tlm.errors import TlmError

_STATE: dict[str, Any] = {}  # of a worker process


class Stopped(Exception):
    """A task was told to stop because another one failed."""


class Pool:
    """Calls `Worker`'s methods in `workers` processes (1: in this one); `consumed` tells how far reading is, by part.

    The order of tasks and their distribution do not matter to the results. The last of `consumed` is a flag that stops tasks.
    """

    def __init__(
        self, job: PreprocessJob, parts: int, workers: int, tick: Callable[[], None]
    ) -> None:
        context = multiprocessing.get_context(METHOD)
        self._tick = tick
        self._inline = Worker(job) if workers == 1 else None
        self.consumed: Any = [0] * (parts + 1) if self._inline else context.RawArray("q", parts + 1)
        self._limit = 2 * workers
        self._executor = None
        if not self._inline:
            self._executor = ProcessPoolExecutor(workers, context, _begin, (job, self.consumed))

    def tokenize(self, parts: Iterable[Part]) -> Iterator[int]:
        """Tokenize parts; gives the index of each as it is finished."""
        if self._inline:
            for part in parts:
                self._inline.tokenize(part, self._counter(part.index))
                yield part.index
        else:
            yield from self._results(_tokenize, ((part,) for part in parts))

    def write_shards(
        self, split: str, indices: Iterable[int], sizes: list[int], parts: int
    ) -> Iterator[Shard]:
        """Write shards of a split; gives each as it is finished."""
        if self._inline:
            for index in indices:
                yield self._inline.write_shard(split, index, sizes, parts)
        else:
            yield from self._results(
                _write_shard, ((split, index, sizes, parts) for index in indices)
            )

    def close(self) -> None:
        """Stop what runs and end the processes."""
        self.consumed[-1] = 1
        if self._executor:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def _counter(self, part: int) -> Callable[[int], None]:
        def count(size: int) -> None:
            self.consumed[part] += size
            self._tick()

        return count

    def _results(
        self, task: Callable[..., Any], arguments: Iterator[tuple[Any, ...]]
    ) -> Iterator[Any]:
        """Outcomes of a task in the order they come, with few of them waiting at a time."""
        assert self._executor
        running: set[Future[Any]] = set()
        more = True
        with _named_death():
            while more or running:
                while more and len(running) < self._limit:
                    argument = next(arguments, None)
                    if argument is None:
                        more = False
                    else:
                        running.add(self._executor.submit(task, *argument))
                done, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                self._tick()


@contextmanager
def _named_death() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise TlmError(
            "a worker process died (killed, or out of memory): run the same command again to continue, with fewer --workers if need be"
        ) from None


def _begin(job: PreprocessJob, consumed: Any) -> None:
    """Set up a worker process."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # the first process hears of it and stops the others
    # A process is one worker: its libraries must not start more threads than that.
    os.environ.update(
        TOKENIZERS_PARALLELISM="false",
        RAYON_NUM_THREADS="1",
        TF_NUM_INTRAOP_THREADS="1",
        TF_NUM_INTEROP_THREADS="1",
    )
    _STATE.update(worker=Worker(job), consumed=consumed)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A killed parent cannot say goodbye; without this its workers would wait for tasks for ever.
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _tokenize(part: Part) -> int:
    consumed = _STATE["consumed"]

    def count(size: int) -> None:
        consumed[part.index] += size
        if consumed[-1]:
            raise Stopped

    _STATE["worker"].tokenize(part, count)
    return part.index


def _write_shard(split: str, index: int, sizes: list[int], parts: int) -> Shard:
    shard: Shard = _STATE["worker"].write_shard(split, index, sizes, parts)
    return shard
