"""Checkpoints of a run: committed whole, verified when read, and an older good one taken where the newest is not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import posixpath
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tpu_tlm import __version__
from tpu_tlm.checkpoints import tensor_bundle
from tpu_tlm.checkpoints.storage import Storage, os_errors, storage_of
from tpu_tlm.errors import TlmError, UsageError

FORMAT = 1
# TensorFlow's own name and text form for it, so that tf.train.latest_checkpoint finds the newest too.
POINTER = "checkpoint"
MANIFEST = "manifest.json"
PREFIX = "variables"

_NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")
_POINTED = re.compile(rf'model_checkpoint_path: "(step-[\d.]+)/{PREFIX}"\n')


class Skipped(NamedTuple):
    """A checkpoint that was not taken, and why."""

    path: str
    reason: str


class Damaged(Exception):
    """What is wrong with a checkpoint; the message says it without naming the checkpoint."""


@dataclasses.dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint whose bytes were read once and agree with its manifest.

    path: its directory; step: updates done; state: what `save` was given; hashes: SHA-256 by file name.
    """

    path: str
    step: int
    state: dict[str, Any]
    _files: dict[str, bytes] = dataclasses.field(repr=False)
    hashes: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)

    def load(self) -> dict[str, np.ndarray]:
        """Name -> array (read-only) of every variable, out of the very bytes that were verified."""
        return tensor_bundle.read(
            self._files[PREFIX + tensor_bundle.INDEX], self._files[PREFIX + tensor_bundle.DATA]
        )


class Checkpoints:
    """The checkpoints in one directory, local or in object storage.

    A commit is a new directory `step-00000100`, its files, their manifest, and last the pointer `checkpoint`. Nothing that
    a reader relies on is ever overwritten or renamed: a step that is saved again gets `step-00000100.1`. So a process
    that dies anywhere leaves the previous checkpoint in force.

    keep: newest checkpoints kept; keep_every: multiples of this many steps are kept for good, 0 = none.
    """

    def __init__(
        self, directory: str, keep: int = 5, keep_every: int = 0, *, storage: Storage | None = None
    ) -> None:
        if keep < 1:
            raise UsageError(f"--keep {keep}: at least one checkpoint must be kept")
        if keep_every < 0:
            raise UsageError(f"--keep_every {keep_every}: must be 0 (none) or a number of steps")
        self.directory = directory.rstrip("/")
        self.keep = keep
        self.keep_every = keep_every
        self.skipped: list[Skipped] = []
        self._storage = storage or storage_of(directory)
        self._damaged: set[str] = set()

    # Reading

    def newest(self) -> LoadedCheckpoint | None:
        """The newest good checkpoint, verified, or None when there is none.

        That is the one the pointer names; failing that, the newest before it; failing those, any that is whole. What was
        passed over on the way stands in `skipped`.
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
            return found
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
        return [name for name in self._storage.names(self.directory) if _NAME.fullmatch(name)]

    def _complete(self, names: list[str]) -> list[str]:
        return [name for name in names if MANIFEST in self._storage.names(self._path(name))]

    def _pointed(self) -> str | None:
        """The checkpoint that the pointer names; None where there is no readable pointer, which `skipped` then says."""
        path = self._path(POINTER)
        try:
            text = self._storage.read(path).decode("utf-8", "replace")
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
        """Read every file of a checkpoint once and compare it with the manifest; Damaged says what is wrong."""
        manifest = self._manifest(name)
        blobs: dict[str, bytes] = {}
        for file, expected in manifest["files"].items():
            blobs[file] = raw = self._read(name, file)
            if len(raw) != expected["bytes"]:
                raise self._damage(
                    name,
                    f"is damaged: {file} has {len(raw)} bytes where {expected['bytes']} were written",
                )
            if hashlib.sha256(raw).hexdigest() != expected["sha256"]:
                raise self._damage(
                    name, f"is damaged: {file} does not have the checksum it was written with"
                )
        return LoadedCheckpoint(
            self._path(name),
            manifest["step"],
            manifest["state"],
            blobs,
            {f: e["sha256"] for f, e in manifest["files"].items()},
        )

    def _manifest(self, name: str) -> dict[str, Any]:
        if MANIFEST not in self._storage.names(self._path(name)):
            raise Damaged("is half-written: it has no manifest, its save was interrupted")
        try:
            manifest = json.loads(self._read(name, MANIFEST))
            sealed = manifest.pop("sha256")
        except (ValueError, TypeError, AttributeError, KeyError):
            raise self._damage(name, f"is damaged: {MANIFEST} is not what was written") from None
        if sealed != _seal(manifest):
            raise self._damage(
                name, f"is damaged: {MANIFEST} does not have the checksum it was written with"
            )
        if manifest["format"] != FORMAT:
            raise TlmError(
                f"{self._path(name)} has format {manifest['format']}, and this program reads {FORMAT}: use the tpu_tlm that wrote it"
            )
        return dict(manifest)

    def _read(self, name: str, file: str) -> bytes:
        try:
            return self._storage.read(self._path(name, file))
        except FileNotFoundError:
            raise self._damage(name, f"is damaged: {file} is missing") from None
        except OSError as error:
            # May pass, so the checkpoint is skipped but not counted as damaged, which would let it be deleted.
            raise Damaged(f"cannot be read: {file}: {error}") from None

    def _damage(self, name: str, reason: str) -> Damaged:
        self._damaged.add(name)
        return Damaged(reason)

    # Writing

    def save(self, step: int, variables: Mapping[str, Any], state: Mapping[str, Any]) -> str:
        """Commit a checkpoint and return its directory; then delete what need not be kept any longer.

        step: updates done; variables: name -> tf.Variable, tensor or array; state: what JSON can hold (position, seed, ...),
        given back by `LoadedCheckpoint.state`. TlmError when it cannot be written: the checkpoints before it stay as they are.
        """
        try:
            name = self._free_name(step)
            with self._storage.staged(self._path(name)) as local, os_errors():
                tensor_bundle.write(os.path.join(local, PREFIX), variables)
                files = {
                    file: _description(os.path.join(local, file))
                    for file in sorted(os.listdir(local))
                }
            manifest = {
                "format": FORMAT,
                "step": step,
                "state": dict(state),
                "files": files,
                "written_by": f"tpu_tlm {__version__}",
            }
            sealed = {**manifest, "sha256": _seal(manifest)}
            text = json.dumps(sealed, indent=1, sort_keys=True, allow_nan=False) + "\n"
            self._storage.write(self._path(name, MANIFEST), text.encode())
            self._storage.write(self._path(POINTER), _pointer(name).encode())
        except OSError as error:
            raise TlmError(
                f"{self.directory}: the checkpoint of step {step} could not be written: {error}"
            ) from error
        self._prune(name)
        return self._path(name)

    def _free_name(self, step: int) -> str:
        """A directory name that is not taken, after deleting what interrupted saves and deletions left behind."""
        self._storage.make(self.directory)
        names = self._names()
        complete = self._complete(names)
        for name in names:
            if name not in complete:
                self._storage.remove_tree(self._path(name))
        attempts = [_order(name)[1] for name in complete if _order(name)[0] == step]
        return f"step-{step:08d}" + (f".{max(attempts) + 1}" if attempts else "")

    def _prune(self, committed: str) -> None:
        """Delete what the new commit made superfluous: too old, damaged, the same step before, or steps beyond it.

        Steps beyond it come from a future that the run has left by continuing from an older checkpoint.
        """
        step = _order(committed)[0]
        usable = [
            name for name in self._names() if name not in self._damaged and _order(name)[0] < step
        ]
        kept = {committed, *sorted(usable, key=_order, reverse=True)[: self.keep - 1]}
        if self.keep_every:
            kept.update(name for name in usable if _order(name)[0] % self.keep_every == 0)
        for name in self._names():
            if name in kept:
                continue
            try:
                # The manifest first: a deletion that is interrupted leaves what counts as half-written.
                self._storage.remove(self._path(name, MANIFEST))
                self._storage.remove_tree(self._path(name))
            except OSError as error:
                print(
                    f"warning: {self._path(name)}: the old checkpoint could not be deleted: {error}",
                    file=sys.stderr,
                )


def _order(name: str) -> tuple[int, int]:
    match = _NAME.fullmatch(name)
    if not match:
        raise ValueError(f"{name} is not the name of a checkpoint")
    return int(match[1]), int(match[2] or 0)


def _pointer(name: str) -> str:
    """Text of the pointer: TensorFlow reads the first line, we both."""
    line = f'model_checkpoint_path: "{name}/{PREFIX}"\n'
    return f"{line}# sha256 {hashlib.sha256(line.encode()).hexdigest()}\n"


def _description(path: str) -> dict[str, Any]:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return {"bytes": os.path.getsize(path), "sha256": digest.hexdigest()}


def _seal(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps(manifest, sort_keys=True, allow_nan=False).encode()
    ).hexdigest()
