"""Checkpoints of a run whose disk is full: make room, save elsewhere, continue."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from tpu_tlm.checkpoints import tensor_bundle
from tpu_tlm.checkpoints.run_checkpoints import RunCheckpoints, SavedElsewhere
from tpu_tlm.errors import TlmError


def _save(checkpoints: RunCheckpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, {"model/a": np.full(5, step, np.float32)}, {"position": step})


def _refusing(monkeypatch: pytest.MonkeyPatch, *directories: Path, until: int = 10**9) -> None:
    """The disk of these directories is full, for the first `until` writes."""
    real, asked = tensor_bundle.write, [0]

    def write(prefix, variables):
        if any(prefix.startswith(f"{directory}/") for directory in directories):
            asked[0] += 1
            if asked[0] <= until:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(prefix, variables)

    monkeypatch.setattr(tensor_bundle, "write", write)


def test_a_full_disk_sends_the_checkpoint_elsewhere_and_readers_take_it(tmp_path, monkeypatch):
    own = tmp_path / "checkpoints"
    _save(RunCheckpoints(str(own)), 2)
    with monkeypatch.context() as patch:
        _refusing(patch, own)
        with pytest.raises(SavedElsewhere) as error:
            _save(RunCheckpoints(str(own)), 4)
    said = str(error.value)
    assert "step 4 is saved in" in said and "No space left" in said and "continues" in said
    assert error.value.path == f"{own}-emergency/step-00000004"
    again = RunCheckpoints(str(own))
    assert again.steps() == [2, 4] and again.at(4).step == 4 and again.at(2).step == 2
    found = again.newest()
    assert found is not None and found.step == 4 and found.load()["model/a"][0] == 4
    assert sorted(os.listdir(own)) == ["checkpoint", "step-00000002"]  # nothing half-written
    _save(again, 6)
    assert RunCheckpoints(str(own)).steps() == [2, 6] and not Path(f"{own}-emergency").exists()


def test_a_damaged_emergency_checkpoint_is_named_and_the_older_one_taken(tmp_path, monkeypatch):
    own = tmp_path / "checkpoints"
    _save(RunCheckpoints(str(own)), 2)
    with monkeypatch.context() as patch:
        _refusing(patch, own)
        with pytest.raises(SavedElsewhere) as error:
            _save(RunCheckpoints(str(own)), 4)
    data = Path(error.value.path, "variables.data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:-1] + b"\xff")
    found = RunCheckpoints(str(own)).newest()
    assert found is not None and found.step == 2
    assert any(error.value.path in str(skipped) for skipped in found.skipped)


def test_nowhere_to_save_is_the_error_of_the_first_place(tmp_path, monkeypatch):
    own = tmp_path / "checkpoints"
    _save(RunCheckpoints(str(own)), 2)
    _refusing(monkeypatch, tmp_path)
    with pytest.raises(TlmError, match="checkpoints: the checkpoint of step 4.*No space") as error:
        _save(RunCheckpoints(str(own)), 4)
    assert "emergency" not in str(error.value)
    assert RunCheckpoints(str(own)).steps() == [2]


def test_room_is_made_by_the_checkpoints_that_the_new_one_replaces(tmp_path, monkeypatch):
    own = tmp_path / "checkpoints"
    _save(RunCheckpoints(str(own), 3, 5), 5, 6, 7, 8)
    assert RunCheckpoints(str(own)).steps() == [5, 6, 7, 8]
    _refusing(monkeypatch, own, until=1)
    _save(RunCheckpoints(str(own), 3, 5), 9)
    assert RunCheckpoints(str(own)).steps() == [5, 7, 8, 9]
    assert not Path(f"{own}-emergency").exists()


def test_no_room_is_made_while_the_newest_checkpoint_is_damaged(tmp_path, monkeypatch):
    own = tmp_path / "checkpoints"
    _save(RunCheckpoints(str(own), 2), 6, 7)
    data = own / "step-00000007" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    _refusing(monkeypatch, own)
    with pytest.raises(SavedElsewhere):
        _save(RunCheckpoints(str(own), 2), 9)
    assert RunCheckpoints(str(own)).at(6).step == 6
