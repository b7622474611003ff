"""Worker processes: none is forked from a process that runs threads, none outlives its parent."""

from __future__ import annotations

import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from tpu_tlm.errors import TlmError

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_FILES, _FILES_OF_WORKER = 32, 3  # open files of a process with a pool, and more for each worker
_MOST_FILES = 65536
_STATE: list[Any] = []  # of a worker process: what `setup` returned


def usable_cores() -> int:
    """Processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare(modules: Sequence[str]) -> None:
    """Start the server that makes the workers; it imports the modules, whose memory they share."""
    if METHOD == "forkserver":
        from multiprocessing import forkserver

        multiprocessing.set_forkserver_preload(list(modules))
        _allowed_files()  # the server has the limit that it is started with
        with _naming_no_start():
            forkserver.ensure_running()


class ProcessPool:
    """Runs tasks in `workers` processes, or in this one when there is one worker.

    setup(*arguments) is called once in every process; a task gets its result as first argument.
    tick: called in this process at least five times a second while tasks run.
    """

    def __init__(
        self,
        workers: int,
        setup: Callable[..., Any],
        *arguments: Any,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._tick = tick
        self._limit = 2 * workers
        self._executor: ProcessPoolExecutor | None = None
        if workers > 1:
            _check_files(workers)
            context = multiprocessing.get_context(METHOD)
            self._executor = ProcessPoolExecutor(workers, context, _begin, (setup, arguments))
        else:
            self._state = setup(*arguments)

    def run(
        self,
        task: Callable[..., Any],
        arguments: Iterable[tuple[Any, ...]],
        ordered: bool = False,
    ) -> Iterator[Any]:
        """Results of task(state, *argument) as they come, or in the order of the arguments.

        Few tasks wait, and few results are held, at a time. Raises `TlmError` when a process dies.
        """
        if self._executor is None:
            for argument in arguments:
                yield task(self._state, *argument)
                self._tick()
            return
        with _naming_death():
            yield from (self._in_order if ordered else self._as_they_come)(task, iter(arguments))

    def close(self) -> None:
        """Drop the tasks that wait, let those that run end, and end the processes."""
        if self._executor:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def _submit(self, task: Callable[..., Any], argument: tuple[Any, ...]) -> Future[Any]:
        assert self._executor
        with _naming_no_start():  # of the executor's processes, which start with its first tasks
            return self._executor.submit(_call, task, argument)

    def _as_they_come(
        self, task: Callable[..., Any], arguments: Iterator[tuple[Any, ...]]
    ) -> Iterator[Any]:
        running: set[Future[Any]] = set()
        more = True
        while more or running:
            while more and len(running) < self._limit:
                argument = next(arguments, None)
                if argument is None:
                    more = False
                else:
                    running.add(self._submit(task, argument))
            done, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
            self._tick()

    def _in_order(
        self, task: Callable[..., Any], arguments: Iterator[tuple[Any, ...]]
    ) -> Iterator[Any]:
        waiting: deque[Future[Any]] = deque()
        try:
            for argument in arguments:
                waiting.append(self._submit(task, argument))
                if len(waiting) >= self._limit:
                    yield self._awaited(waiting.popleft())
            while waiting:
                yield self._awaited(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()

    def _awaited(self, future: Future[Any]) -> Any:
        while not wait([future], timeout=0.2).done:
            self._tick()
        return future.result()


@contextmanager
def _naming_death() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise TlmError(
            "a worker process died (killed, or out of memory): run the same command again, "
            "with fewer --workers if need be"
        ) from None


def _allowed_files() -> float:
    """How many files this process and those it starts may open; raises the limit where it can."""
    try:
        import resource
    except ImportError:  # not on Windows
        return math.inf
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(_MOST_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return math.inf if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS has a lower limit that it does not tell
        return soft
    return wanted


def _check_files(workers: int) -> None:
    """Raise `TlmError` where the workers' pipes may take more open files than are allowed.

    Failing later, the server of processes would add tracebacks of its own.
    """
    needed, allowed = _FILES + _FILES_OF_WORKER * workers, _allowed_files()
    if needed > allowed:
        raise TlmError(
            f"{workers} worker processes take up to {needed} open files, {allowed} are allowed: "
            "raise the limit (ulimit -n), or give fewer --workers"
        )


@contextmanager
def _naming_no_start() -> Iterator[None]:
    """Turn the failure to start a process (limits of open files or processes) into one line."""
    try:
        yield
    except (OSError, EOFError) as error:
        cause = getattr(error, "strerror", None) or "the server of processes ended"
        raise TlmError(
            f"a worker process cannot be started ({cause}): raise the limit (ulimit -n, ulimit -u),"
            " or give fewer --workers"
        ) from None


def _begin(setup: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Set up a worker process."""
    # The parent process handles the interrupt and stops the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A process is one worker: its libraries must not start more threads than that.
    os.environ.update(
        TOKENIZERS_PARALLELISM="false",
        RAYON_NUM_THREADS="1",
        TF_NUM_INTRAOP_THREADS="1",
        TF_NUM_INTEROP_THREADS="1",
    )
    _STATE[:] = [setup(*arguments)]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A killed parent cannot stop its workers; without this they would wait for tasks for ever.
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _call(task: Callable[..., Any], argument: tuple[Any, ...]) -> Any:
    return task(_STATE[0], *argument)
