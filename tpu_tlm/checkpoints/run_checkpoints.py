"""Checkpoints of a run on a disk that may be full: make room, or save elsewhere in the run."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from collections.abc import Mapping
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.checkpoints.manager import Checkpoints, Damaged, LoadedCheckpoint, _order
from tpu_tlm.checkpoints.run_dir import EMERGENCY
from tpu_tlm.errors import TlmError

_FULL = (errno.ENOSPC, errno.EDQUOT)


class SavedElsewhere(TlmError):
    """The checkpoint could not be written to its directory, but to the emergency directory.

    path: where it is.
    """

    def __init__(self, error: TlmError, step: int, path: str) -> None:
        super().__init__(
            f"{error}; step {step} is saved in {path}: make room or access, then the same command"
            " continues from it"
        )
        self.path = path


class RunCheckpoints(Checkpoints):
    """Checkpoints in RUN/checkpoints, and in RUN/checkpoints-emergency when that cannot be written.

    Where the disk is full, the checkpoints that the new one replaces anyway are deleted first,
    once the newest is verified. Readers take the newer of the two directories; the next checkpoint
    that is written to its own directory deletes the emergency one.
    """

    def __init__(self, directory: str, keep: int = 5, keep_every: int = 0) -> None:
        super().__init__(directory, keep, keep_every)
        self.emergency = Checkpoints(f"{self.directory}{EMERGENCY}", 1)

    def newest(self) -> LoadedCheckpoint | None:
        found = super().newest()
        other = self.emergency.newest()
        self.skipped += self.emergency.skipped
        if found is not None and (other is None or other.step <= found.step):
            return dataclasses.replace(found, skipped=tuple(self.skipped))
        return other and dataclasses.replace(other, skipped=tuple(self.skipped))

    def at(self, step: int) -> LoadedCheckpoint:
        if step in self.emergency.steps() and step not in super().steps():
            self.skipped = []
            return self.emergency.at(step)
        return super().at(step)

    def steps(self) -> list[int]:
        return sorted({*super().steps(), *self.emergency.steps()})

    def save(self, step: int, variables: Mapping[str, Any], state: Mapping[str, Any]) -> str:
        """Commit a checkpoint and return its directory.

        Raises `SavedElsewhere` after a save to the emergency directory, `TlmError` when neither
        directory can be written.
        """
        try:
            path = self._save_here(step, variables, state)
        except TlmError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            try:
                path = self.emergency.save(step, variables, state)
            except TlmError:
                if not self.emergency.steps():
                    self._forget_emergency()
                raise error from error.__cause__
            raise SavedElsewhere(error, step, path) from error
        self._forget_emergency()
        return path

    def _save_here(self, step: int, variables: Mapping[str, Any], state: Mapping[str, Any]) -> str:
        try:
            return super().save(step, variables, state)
        except TlmError as error:
            cause = error.__cause__
            full = isinstance(cause, OSError) and cause.errno in _FULL
            if not full or not self._make_room(step):
                raise
        return super().save(step, variables, state)

    def _make_room(self, step: int) -> bool:
        """Delete the checkpoints that one of `step` replaces; whether there were any."""
        usable = self._complete(self._usable(step))
        kept = usable[: max(1, self.keep - 1)]
        if self.keep_every:
            kept += [name for name in usable if _order(name)[0] % self.keep_every == 0]
        kept += [name for name in usable if _order(name)[0] in self.pinned]
        # Later steps are left to the commit: nothing is lost if it fails again.
        replaced = [name for name in usable if name not in kept]
        if not replaced:
            return False
        try:
            self._verified(usable[0])
        except Damaged:
            return False
        self._delete_all_but({name for name in self._names() if name not in replaced})
        return True

    def _forget_emergency(self) -> None:
        # Left where it cannot be deleted: it is older now, so nobody takes it.
        with contextlib.suppress(OSError, TlmError):
            if filesystem.is_directory(self.emergency.directory):
                filesystem.of(self.directory).remove_tree(self.emergency.directory)
