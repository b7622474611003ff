"""Compiled programs of XLA for the CPU, kept between processes.

TensorFlow loads programs from a directory and adds to it, but a damaged one ends the step and two
processes are not kept apart. So each process has a directory of its own, with links to the verified
programs of those before it, and new ones are published from there.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib.metadata
import os
import platform
import shutil
import socket
import time
from pathlib import Path

from tpu_tlm import filesystem
from tpu_tlm.errors import TlmError

_FLAGS = "TF_XLA_FLAGS"
_FLAG = "--tf_xla_persistent_cache_directory="
# Bytes of programs that are kept, and that must be free on the disk.
_KEPT = 1 << 30
_FREE = 2 << 30
# Seconds after which the directory of a process on another machine is deleted.
_OLD = 7 * 86400.0
_OWN = "process-"

_published: Path | None = None


def start(place: str) -> None:
    """Let TensorFlow load and keep programs; call it before TensorFlow compiles its first one.

    place: a directory, "auto" for `tpu_tlm/xla` in the user's cache directory, or "none". "auto" is
    without effect where that directory cannot be used or its disk is almost full; for a directory
    by name `UsageError` is raised. Variables that name such a directory already stay as they are.
    """
    global _published
    if place == "none" or _FLAG in os.environ.get(_FLAGS, "") or _published is not None:
        return
    if place != "auto":
        with filesystem.naming(place):
            _start(Path(place))
        return
    with contextlib.suppress(OSError, RuntimeError):
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        _start(Path(cache) / "tpu_tlm" / "xla")


def _start(place: Path) -> None:
    global _published
    # Code is loaded from here: only this user may write.
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory = place / _machine()
    directory.mkdir(exist_ok=True, mode=0o700)
    if directory.stat().st_uid != os.getuid() or shutil.disk_usage(directory).free < _FREE:
        return
    _forget_ended(directory)
    own = directory / f"{_OWN}{os.getpid()}-{socket.gethostname()}"
    own.mkdir(exist_ok=True, mode=0o700)
    for name in _kept(directory):
        with contextlib.suppress(FileExistsError):
            os.link(directory / name, own / name)
    given = os.environ.get(_FLAGS, "")
    # A program for a GPU depends on its driver, which is not part of `_machine`.
    flags = f"{_FLAG}{own} --tf_xla_persistent_cache_device_types=CPU"
    os.environ[_FLAGS] = f"{given} {flags}".strip()
    _published = directory
    atexit.register(publish)


def publish() -> None:
    """Keep the programs that this process has compiled for those after it."""
    if _published is None:
        return
    own = _published / f"{_OWN}{os.getpid()}-{socket.gethostname()}"
    # A program that cannot be kept is compiled again next time.
    with contextlib.suppress(OSError, TlmError):
        for path in own.glob("*.pb"):
            target = _published / path.name
            if target.exists():
                continue
            filesystem.write_bytes(f"{target}.sha256", _sha256(path).encode())
            with contextlib.suppress(FileExistsError):
                os.link(path, target)


def _machine() -> str:
    """A name for what a compiled program depends on besides itself."""
    parts = [platform.machine(), str(len(os.sched_getaffinity(0)))]
    for name in ("tensorflow", "tensorflow-cpu", "tensorflow-tpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            parts.append(f"{name} {importlib.metadata.version(name)}")
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        parts += sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))})
    names = ("XLA_FLAGS", _FLAGS, "TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTRAOP_THREADS")
    parts += [f"{name}={os.environ.get(name, '')}" for name in names]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _kept(directory: Path) -> list[str]:
    """Names of the verified programs; the others, and the oldest of too many, are deleted."""
    found = sorted(directory.glob("*.pb"), key=lambda path: path.stat().st_mtime, reverse=True)
    kept, total = [], 0
    for path in found:
        checksum = Path(f"{path}.sha256")
        size = path.stat().st_size
        good = total + size <= _KEPT and checksum.exists()
        if good and checksum.read_text(encoding="ascii", errors="replace") == _sha256(path):
            kept.append(path.name)
            total += size
            continue
        path.unlink(missing_ok=True)
        checksum.unlink(missing_ok=True)
    return kept


def _forget_ended(directory: Path) -> None:
    """Delete the directories of processes that have ended."""
    for path in directory.glob(f"{_OWN}*"):
        number, _, host = path.name.removeprefix(_OWN).partition("-")
        here = host == socket.gethostname() and number.isdigit()
        ended = here and not Path(f"/proc/{number}").exists()
        if ended or time.time() - path.stat().st_mtime > _OLD:
            shutil.rmtree(path, ignore_errors=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
