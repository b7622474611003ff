"""Checkpoints of a run: committed as a whole, verified when read, with fallback to older ones."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import posixpath
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.checkpoints import manifest as manifests
from tpu_tlm.checkpoints import tensor_bundle
from tpu_tlm.checkpoints.data_file import DataFile
from tpu_tlm.checkpoints.manifest import MANIFEST, PREFIX
from tpu_tlm.data.progress import download
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.filesystem import FileSystem
from tpu_tlm.filesystem.local import TEMPORARY

# TensorFlow's own name and text form for it: tf.train.latest_checkpoint finds the newest, too.
POINTER = "checkpoint"

_NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")
_POINTED = re.compile(rf'model_checkpoint_path: "(step-[\d.]+)/{PREFIX}"\n')


class Skipped(NamedTuple):
    """A checkpoint that was not taken, and why; its text is a line for the user."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"skipped {self.path}: {self.reason}"


class Damaged(Exception):
    """What is wrong with a checkpoint; the message says it without naming the checkpoint."""


@dataclasses.dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint whose files agree with its manifest.

    path: its directory; step: updates done; state: what `save` was given; hashes: SHA-256 by file
    name; skipped: newer ones that could not be taken, which every command has to tell.
    """

    path: str
    step: int
    state: dict[str, Any]
    _index: bytes = dataclasses.field(repr=False)
    _data: DataFile = dataclasses.field(repr=False)
    hashes: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)
    skipped: tuple[Skipped, ...] = ()

    def load(self) -> Mapping[str, np.ndarray]:
        """Name -> array (read-only) of every variable; each access reads one from the file that
        was verified, so that they need not be in memory together."""
        return tensor_bundle.Tensors(self._index, self._data)


class Checkpoints:
    """The checkpoints in one directory, local or in object storage.

    A commit is a new directory `step-00000100`, its files, their manifest, and last the pointer
    `checkpoint`. Nothing that a reader relies on is ever overwritten or renamed: a step that is
    saved again gets `step-00000100.1`. So a process that dies anywhere leaves the previous
    checkpoint in force. In object storage every file of a commit is created under the precondition
    that it is new, and the pointer is replaced under the precondition that it was not replaced
    since it was read: of two writers, one fails.

    keep: newest checkpoints kept; keep_every: multiples of this many steps are never deleted, 0 =
    none. `skipped`: checkpoints that the last reading did not take.
    """

    def __init__(
        self, directory: str, keep: int = 5, keep_every: int = 0, *, files: FileSystem | None = None
    ) -> None:
        if keep < 1:
            raise UsageError(f"--keep {keep}: at least one checkpoint must be kept")
        if keep_every < 0:
            raise UsageError(f"--keep_every {keep_every}: must be 0 (none) or a number of steps")
        self.directory = directory.rstrip("/")
        self.keep = keep
        self.keep_every = keep_every
        self.skipped: list[Skipped] = []
        # Steps that are never deleted besides.
        self.pinned: set[int] = set()
        self._files = files or filesystem.of(directory)
        self._damaged: set[str] = set()
        # Version of the pointer when it was last read or written; None: not yet, or not known here.
        self._version: int | None = None

    # Reading

    def newest(self) -> LoadedCheckpoint | None:
        """The newest good checkpoint, verified, or None when there is none.

        That is the one the pointer names; failing that, the newest before it; failing those, any
        that is complete. Those that were not taken are listed in `skipped`, here and in the result.
        """
        self.skipped = []
        names = self._names()
        pointed = self._pointed()
        order = sorted(names, key=_order, reverse=True)
        if pointed:
            if pointed not in names:
                self.skipped.append(
                    Skipped(
                        self._path(pointed),
                        f"is what {self._path(POINTER)} points to, but is not there",
                    )
                )
            beyond = [name for name in order if _order(name) > _order(pointed)]
            order = [name for name in order if name not in beyond] + beyond
        for at, name in enumerate(order):
            try:
                found = self._verified(name)
            except Damaged as damage:
                self.skipped.append(Skipped(self._path(name), str(damage)))
                continue
            if pointed:
                rest = [other for other in order[at + 1 :] if _order(other) > _order(pointed)]
                self.skipped += [
                    Skipped(self._path(other), "was not committed: its save was interrupted")
                    for other in rest
                ]
            return dataclasses.replace(found, skipped=tuple(self.skipped))
        return None

    def at(self, step: int) -> LoadedCheckpoint:
        """The checkpoint of this step, verified; TlmError when there is none or it is damaged."""
        self.skipped = []
        tried: list[str] = []
        pointed = self._pointed()
        for name in sorted(
            (n for n in self._names() if _order(n)[0] == step),
            key=lambda n: (n == pointed, _order(n)),
            reverse=True,
        ):
            try:
                return self._verified(name)
            except Damaged as damage:
                tried.append(f"{self._path(name)} {damage}")
        if tried:
            raise TlmError(f"{'; '.join(tried)}; take another step: {self._listed()}")
        raise TlmError(
            f"{self.directory} has no checkpoint of step {step}; there are: {self._listed()}"
        )

    def steps(self) -> list[int]:
        """Steps that have a complete (not necessarily undamaged) checkpoint, ascending."""
        return sorted({_order(name)[0] for name in self._complete(self._names())})

    def _listed(self) -> str:
        return ", ".join(map(str, self.steps())) or "none"

    def _path(self, *parts: str) -> str:
        return posixpath.join(self.directory, *parts)

    def _names(self) -> list[str]:
        with filesystem.naming(self.directory):
            found = self._files.sizes(self.directory)
        return sorted(name for name in found if found[name] is None and _NAME.fullmatch(name))

    def _complete(self, names: list[str]) -> list[str]:
        return [name for name in names if MANIFEST in self._files.sizes(self._path(name))]

    def _pointed(self) -> str | None:
        """The checkpoint that the pointer names; None, with a line in `skipped`, if unreadable."""
        path = self._path(POINTER)
        try:
            self._version = self._files.version(path)
            text = self._files.read(path).decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            self.skipped.append(Skipped(path, f"cannot be read: {error}"))
            return None
        match = _POINTED.match(text)
        if not match or text != _pointer(match[1]):
            self.skipped.append(Skipped(path, "is damaged: it is not what was written"))
            return None
        return match[1]

    def _verified(self, name: str) -> LoadedCheckpoint:
        """Compare every file with the manifest; Damaged says what is wrong."""
        manifest = self._manifest(name)
        opened: dict[str, DataFile] = {}
        for file, expected in manifest["files"].items():
            size = self._size(name, file)
            if size != expected["bytes"]:
                raise self._damage(
                    name,
                    f"is damaged: {file} has {size} bytes where {expected['bytes']} were written",
                )
            opened[file], checksum = self._opened(name, file)
            if checksum != expected["sha256"]:
                raise self._damage(
                    name, f"is damaged: {file} does not have the checksum it was written with"
                )
        index = opened[PREFIX + tensor_bundle.INDEX]
        raw = bytearray(index.size)
        index.read_into(memoryview(raw), 0)
        return LoadedCheckpoint(
            self._path(name),
            manifest["step"],
            manifest["state"],
            bytes(raw),
            opened[PREFIX + tensor_bundle.DATA],
            {file: expected["sha256"] for file, expected in manifest["files"].items()},
        )

    def _manifest(self, name: str) -> dict[str, Any]:
        try:
            names = self._files.sizes(self._path(name))
        except OSError as error:
            raise Damaged(f"cannot be read: {error.strerror or error}") from None
        if MANIFEST not in names:
            raise Damaged("is half-written: it has no manifest, its save was interrupted")
        try:
            return manifests.parse(self._read(name, MANIFEST), self._path(name))
        except ValueError as error:
            raise self._damage(name, f"is damaged: {MANIFEST} {error}") from None

    def _inside(self, name: str, file: str) -> str:
        """The path of a file of a checkpoint; the manifest must not name any other place."""
        directory = self._path(name)
        try:
            return filesystem.safe_join(directory, file, f"{directory}/{MANIFEST}")
        except UsageError as error:
            raise self._damage(name, f"is damaged: {error}") from None

    def _size(self, name: str, file: str) -> int:
        path = self._inside(name, file)
        try:
            size = self._files.size(path)
            filesystem.check_inside(self._path(name), file)
            return size
        except FileNotFoundError:
            raise self._damage(name, f"is damaged: {file} is missing") from None
        except OSError as error:
            raise Damaged(f"cannot be read: {file}: {error.strerror or error}") from None
        except UsageError as error:
            raise self._damage(name, f"is damaged: {error}") from None

    def _read(self, name: str, file: str) -> bytes:
        with self._reading(name, file):
            return self._files.read(self._inside(name, file))

    def _opened(self, name: str, file: str) -> tuple[DataFile, str]:
        """A file, open for reading, and its SHA-256."""
        path = self._inside(name, file)
        with self._reading(name, file), download(path) as progress:
            stream = self._files.open_local(path, progress)
        with self._reading(name, file), stream:
            found = DataFile(stream, path)
            return found, found.sha256()

    @contextlib.contextmanager
    def _reading(self, name: str, file: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise self._damage(name, f"is damaged: {file} is missing") from None
        except OSError as error:
            # May pass, so the checkpoint is skipped but not counted as damaged, which would let it
            # be deleted.
            raise Damaged(f"cannot be read: {file}: {error.strerror or error}") from None

    def _damage(self, name: str, reason: str) -> Damaged:
        self._damaged.add(name)
        return Damaged(reason)

    # Writing

    def save(self, step: int, variables: Mapping[str, Any], state: Mapping[str, Any]) -> str:
        """Commit a checkpoint and return its directory; then delete what is no longer kept.

        step: updates done; variables: name -> tf.Variable, tensor or array; state: what JSON can
        hold (position, seed, ...), given back by `LoadedCheckpoint.state`. May be called in another
        thread, but not in two. Raises `TlmError` when it cannot be written: the checkpoints before
        it stay as they are.
        """
        failed = f"{self.directory}: the checkpoint of step {step} could not be written"
        name = ""
        try:
            if self._version is None:
                self._version = self._files.version(self._path(POINTER))
            name = self._free_name(step)
            with self._files.staged(self._path(name)) as local:
                tensor_bundle.write(os.path.join(local, PREFIX), variables)
                files = manifests.describe(local)
            text = manifests.dump(step, state, files)
            new = None if self._version is None else 0
            self._files.write(self._path(name, MANIFEST), text, new)
            if new == 0 and not files.keys() <= self._files.sizes(self._path(name)).keys():
                raise FileExistsError(errno.EEXIST, "Deleted by another process meanwhile")
            pointer = self._path(POINTER)
            self._version = self._files.write(pointer, _pointer(name).encode(), self._version)
        except FileExistsError:
            raise TlmError(
                f"{failed}: another process commits checkpoints here; end one of the two"
            ) from None
        except OSError as error:
            if name:
                with contextlib.suppress(OSError):
                    if not self._complete([name]):
                        self._files.remove_tree(self._path(name))
            raise TlmError(f"{failed}: {filesystem.reason(error)}") from error
        self._prune(name)
        return self._path(name)

    def _free_name(self, step: int) -> str:
        """A new directory's name, after deleting what interrupted saves and deletions left."""
        self._files.make(self.directory)
        for name in self._files.names(self.directory):
            if name.startswith(POINTER) and name.endswith((TEMPORARY, ".part")):
                self._files.remove(self._path(name))
        names = self._names()
        complete = self._complete(names)
        for name in names:
            if name not in complete and not self._removed_half_written(name):
                complete.append(name)
        attempts = [_order(name)[1] for name in complete if _order(name)[0] == step]
        return f"step-{step:08d}" + (f".{max(attempts) + 1}" if attempts else "")

    def _removed_half_written(self, name: str) -> bool:
        """Delete a save without a manifest; False if another process completed it meanwhile.

        In a bucket an empty manifest is written first, so that the process whose save this is
        cannot complete it while its files are deleted, and it is deleted last: whoever completes
        the save after that finds that files are missing.
        """
        if self._version is not None:
            try:
                self._files.write(self._path(name, MANIFEST), b"", 0)
            except FileExistsError:
                return False
            for file in self._files.tree(self._path(name)):
                if file != MANIFEST:
                    self._files.remove(self._path(name, file))
        self._files.remove_tree(self._path(name))
        return True

    def _prune(self, committed: str) -> None:
        """Delete what the new commit replaces: too old, damaged, the same step, or later steps.

        Later steps are there when the run continued from an older checkpoint.
        """
        step = _order(committed)[0]
        usable = self._usable(step)
        kept = {committed, *usable[: self.keep - 1]}
        if self.keep_every:
            kept.update(name for name in usable if _order(name)[0] % self.keep_every == 0)
        kept.update(name for name in usable if _order(name)[0] in self.pinned)
        self._delete_all_but(kept)

    def _usable(self, step: int) -> list[str]:
        """Checkpoints before `step` that are not known to be damaged, the newest first."""
        found = [n for n in self._names() if n not in self._damaged and _order(n)[0] < step]
        return sorted(found, key=_order, reverse=True)

    def _delete_all_but(self, kept: set[str]) -> None:
        for name in self._names():
            if name in kept:
                continue
            try:
                # The manifest first: an interrupted deletion leaves what counts as half-written.
                self._files.remove(self._path(name, MANIFEST))
                self._files.remove_tree(self._path(name))
            except OSError as error:
                print(
                    f"warning: {self._path(name)}: the old checkpoint could not be deleted: "
                    f"{filesystem.reason(error)}",
                    file=sys.stderr,
                )


def _order(name: str) -> tuple[int, int]:
    match = _NAME.fullmatch(name)
    if not match:
        raise ValueError(f"{name} is not the name of a checkpoint")
    return int(match[1]), int(match[2] or 0)


def _pointer(name: str) -> str:
    """Text of the pointer; TensorFlow reads its first line."""
    line = f'model_checkpoint_path: "{name}/{PREFIX}"\n'
    return f"{line}# sha256 {hashlib.sha256(line.encode()).hexdigest()}\n"
