"""Commands in child processes of one that has imported everything, under watch and limits.

The parent imports TensorFlow and the package and runs nothing of them, so a fork of it is a fresh
process without the seconds that the imports take. An audit hook in the child reports what it
writes, executes and reads where it must not.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

GIB = 1 << 30
_PR_SET_PDEATHSIG = 1
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = (
    "os.mkdir os.rename os.remove os.rmdir os.symlink os.link os.truncate os.chmod os.chown"
    " shutil.move shutil.rmtree shutil.copyfile"
).split()
_CODE = "pickle.find_class os.system os.exec os.posix_spawn os.spawn subprocess.Popen".split()


def preload() -> None:
    """Import every module of the package, so that children need not."""
    import tpu_tlm

    # A shell starts what it runs in the background with SIGINT ignored, which children inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    skip = ("tpu_tlm.planning", "tpu_tlm.__main__")
    for module in pkgutil.walk_packages(tpu_tlm.__path__, "tpu_tlm."):
        if not module.name.startswith(skip):
            importlib.import_module(module.name)
    importlib.import_module("tensorboard.compat.proto.summary_pb2")


@dataclass(frozen=True)
class Limits:
    """Bounds of one child: wall seconds, bytes of address space beyond the parent's."""

    seconds: float = 60.0
    memory: int = 3 * GIB


@dataclass(frozen=True)
class Watch:
    """Where a child may write, and what it must not read; other writes are reported."""

    writable: tuple[str, ...] = ()
    secret: str = ""


@dataclass
class Outcome:
    """How a child ended: exit code (negative: signal), wall seconds, peak bytes, its output, and
    what the audit hook reported.
    """

    code: int
    seconds: float
    peak: int
    out: str
    err: str
    timed_out: bool = False
    events: list[list[str]] = field(default_factory=list)


class Child:
    """A running child of `start`."""

    def __init__(self, pid: int, place: Path, limits: Limits, began: float) -> None:
        self.pid, self.place, self.limits, self.began = pid, place, limits, began
        self._outcome: Outcome | None = None

    def poll(self) -> bool:
        """Whether it has ended."""
        if self._outcome is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self._ended(status, usage, False)
        return self._outcome is not None

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if not self.poll():
            os.kill(self.pid, number)

    def wait(self) -> Outcome:
        """Wait for the end; after the limit the child is killed."""
        while not self.poll():
            if time.monotonic() - self.began > self.limits.seconds:
                os.kill(self.pid, signal.SIGKILL)
                _, status, usage = os.wait4(self.pid, 0)
                self._ended(status, usage, True)
            time.sleep(0.002)
        assert self._outcome is not None
        return self._outcome

    def _ended(self, status: int, usage: resource.struct_rusage, timed_out: bool) -> None:
        said = {name: (self.place / name).read_text("utf-8", "replace") for name in ("out", "err")}
        events = [json.loads(line) for line in (self.place / "events").read_text().splitlines()]
        self._outcome = Outcome(
            os.waitstatus_to_exitcode(status),
            time.monotonic() - self.began,
            usage.ru_maxrss * 1024,
            said["out"],
            said["err"],
            timed_out,
            events,
        )


def start(
    main: Callable[[list[str]], int | None],
    argv: Sequence[object],
    place: Path,
    *,
    limits: Limits | None = None,
    watch: Watch | None = None,
    cwd: Path | None = None,
    environ: dict[str, str] | None = None,
    stdin: bytes = b"",
) -> Child:
    """Run `main(argv)` as a command in a child; `place` is an empty directory for its output."""
    limits = limits or Limits()
    place.mkdir(parents=True, exist_ok=True)
    (place / "stdin").write_bytes(stdin)
    for name in ("out", "err", "events"):
        (place / name).write_bytes(b"")
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    pid = os.fork()
    if pid:
        return Child(pid, place, limits, began)
    code = 99
    try:
        _become(place, limits, watch, cwd, environ)
        code = _command(main, [str(value) for value in argv])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
        os._exit(code)


def run(
    main: Callable[[list[str]], int | None], argv: Sequence[object], place: Path, **how
) -> Outcome:
    """`start`, and wait for the end."""
    return start(main, argv, place, **how).wait()


def _command(main: Callable[[list[str]], int | None], argv: list[str]) -> int:
    from tpu_tlm.errors import end_process, run_command

    try:
        end_process(run_command(main, argv))
    except SystemExit as end:
        return int(end.code or 0)


def _become(
    place: Path,
    limits: Limits,
    watch: Watch | None,
    cwd: Path | None,
    environ: dict[str, str] | None,
) -> None:
    os.setpgid(0, 0)
    # A campaign that is ended leaves no children behind.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for name, number, flags in (
        ("stdin", 0, os.O_RDONLY),
        ("out", 1, os.O_WRONLY),
        ("err", 2, os.O_WRONLY),
    ):
        handle = os.open(place / name, flags | (os.O_APPEND if number else 0))
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)
    os.environ.update(environ or {})
    tempfile.tempdir = None
    if cwd is not None:
        os.chdir(cwd)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + limits.memory, size + limits.memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if watch is not None:
        _watch(watch, os.open(place / "events", os.O_WRONLY | os.O_APPEND))


def _changed_by(event: str, arguments: tuple) -> list[tuple[object, str]]:
    """What a call changes: (path, directory that it is relative to)."""

    def below(handle: object) -> str:
        return f"/proc/self/fd/{handle}" if isinstance(handle, int) and handle >= 0 else ""

    if event in ("os.rename", "os.link"):
        pairs = zip(arguments[:2], arguments[2:4], strict=False)
        return [(path, below(handle)) for path, handle in pairs][event == "os.link" :]
    if event == "os.symlink":
        return [(arguments[1], below(arguments[2]))]
    if event in ("os.remove", "os.rmdir"):
        return [(arguments[0], below(arguments[1]))]
    if event in ("os.mkdir", "os.chmod"):
        return [(arguments[0], below(arguments[2]))]
    return [(path, "") for path in arguments[: 2 if event == "shutil.move" else 1]]


def _watch(watch: Watch, report: int) -> None:
    writable = (*watch.writable, "/dev/", "/proc/self/")
    busy = False

    def tell(*event: str) -> None:
        os.write(report, (json.dumps(event) + "\n").encode())

    def hook(event: str, arguments: tuple) -> None:
        nonlocal busy
        if busy or not (event == "open" or event in _CHANGES or event in _CODE):
            return
        busy = True
        try:
            if event in _CODE:
                tell("code", event, repr(arguments)[:200])
            elif event == "open":
                path, _, flags = arguments
                if isinstance(path, (str, bytes, os.PathLike)):
                    where = os.path.realpath(os.fsdecode(path))
                    if (flags or 0) & _WRITES and not where.startswith(writable):
                        tell("write", where)
                    elif watch.secret and where.startswith(watch.secret):
                        tell("read", where)
            else:
                for path, directory in _changed_by(event, arguments):
                    if isinstance(path, (str, bytes, os.PathLike)):
                        # The last part is not followed: it is what is changed.
                        head, tail = os.path.split(os.path.join(directory, os.fsdecode(path)))
                        where = os.path.join(os.path.realpath(head or "."), tail)
                        if not where.startswith(writable):
                            tell("write", where)
        except ValueError:
            pass  # a name that no file can have: the command's own call fails, too
        finally:
            busy = False

    sys.addaudithook(hook)
