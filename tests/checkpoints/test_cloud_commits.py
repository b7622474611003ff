"""Commits and the run's lock in Google Cloud Storage: preconditions, lost answers, faults."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.bucket import Bucket
from tpu_tlm import filesystem
from tpu_tlm.checkpoints.manager import Checkpoints
from tpu_tlm.checkpoints.manifest import MANIFEST
from tpu_tlm.checkpoints.run_lock import locked
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.filesystem.cloud_storage import CloudStorage

RUN = "gs://bucket/run"
DIRECTORY = f"{RUN}/checkpoints"


def _variables(step: int) -> dict[str, np.ndarray]:
    return {"kernel": np.arange(24, dtype=np.float32).reshape(4, 6) + step}


def _save(directory: str, step: int, made: Checkpoints | None = None, **options: int) -> str:
    made = made or Checkpoints(directory, **options)
    return made.save(step, _variables(step), {"position": step * 32})


def _newest(directory: str = DIRECTORY) -> int:
    found = Checkpoints(directory).newest()
    assert found is not None
    assert np.array_equal(found.load()["kernel"], _variables(found.step)["kernel"])
    return found.step


@pytest.mark.parametrize("action", [503, "reset", "lost", "cut"])
def test_commits_through_faults_are_the_local_bytes(
    bucket: Bucket, tmp_path: Path, action: object
) -> None:
    bucket.fail(action=action, chance=0.1)
    remote, local = Checkpoints(DIRECTORY, keep=2), Checkpoints(str(tmp_path), keep=2)
    for step in (10, 20, 30, 40):
        _save(DIRECTORY, step, remote)
        _save(str(tmp_path), step, local)
    assert _newest() == 40
    want = {
        f"run/checkpoints/{path.relative_to(tmp_path)}": path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert {k: v for k, v in bucket.objects("run/checkpoints/").items() if k[-1] != "/"} == want


def test_damage_is_named_and_the_one_before_is_used(bucket: Bucket) -> None:
    for step in (10, 20):
        _save(DIRECTORY, step)
    filesystem.write_bytes(f"{DIRECTORY}/step-00000020/variables.index", b"short")
    found = Checkpoints(DIRECTORY).newest()
    assert found is not None and found.step == 10
    assert [skipped.path for skipped in found.skipped] == [f"{DIRECTORY}/step-00000020"]


def test_of_two_writers_one_commits(bucket: Bucket) -> None:
    _save(DIRECTORY, 10)
    writers = [Checkpoints(DIRECTORY) for _ in range(4)]
    for writer in writers:
        assert writer.newest() is not None

    def commit(number: int) -> str | None:
        try:
            return writers[number].save(20, _variables(20), {"writer": number})
        except TlmError as error:
            assert "another process commits" in str(error)
            return None

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(commit, range(4)))
    found = Checkpoints(DIRECTORY).newest()
    assert found is not None and sum(path is not None for path in made) <= 1
    if found.step == 20:
        assert made[found.state["writer"]] == found.path
    # One after the other, too: who has not seen the newest commit makes none.
    with pytest.raises(TlmError, match="another process commits"):
        stale = Checkpoints(DIRECTORY)
        assert stale.newest() is not None
        _save(DIRECTORY, 30)
        _save(DIRECTORY, 40, stale)
    assert _newest() == 30


def test_a_save_that_is_refused_midway_leaves_the_one_before(bucket: Bucket) -> None:
    _save(DIRECTORY, 10)
    before = bucket.objects()
    fault = bucket.fail("POST|PUT", "/upload/", 403, skip=1)
    with pytest.raises(TlmError, match="step 20 could not be written: permission"):
        _save(DIRECTORY, 20)
    assert fault.hits and _newest() == 10 and bucket.objects() == before


def test_a_run_is_locked_for_others_until_it_ends(bucket: Bucket) -> None:
    with locked(RUN):
        with pytest.raises(UsageError, match="trains here now"), locked(RUN, patience=0.1):
            pass
        with locked(RUN, wanted=False):
            pass
    with locked(RUN, patience=0.1):
        pass


def test_a_holder_that_lost_the_lock_commits_no_more(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Checkpoints(DIRECTORY)
    _save(DIRECTORY, 10, slow)
    CloudStorage().write(f"{RUN}/lock", b'{"owner": "process 1 on elsewhere\\nbegun 5\\n"}')
    monkeypatch.setattr("tpu_tlm.filesystem.lock.LEASE", 0.4)
    with locked(RUN):
        with pytest.raises(TlmError, match="another process commits"):
            _save(DIRECTORY, 20, slow)
        assert _newest() == 10
        _save(DIRECTORY, 11)
    assert _newest() == 11


@pytest.mark.parametrize("when", ["before the manifest", "after the manifest"])
def test_a_clean_up_beside_a_save_leaves_no_damaged_commit(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Another process, which holds the save for an interrupted one, deletes it in between."""
    _save(DIRECTORY, 10)
    first, second = Checkpoints(DIRECTORY), Checkpoints(DIRECTORY)
    assert first.newest() is not None and second.newest() is not None
    write, cleaned = CloudStorage.write, []

    def beside(
        self: CloudStorage, path: str, data: bytes, version: int | None = None
    ) -> int | None:
        ours = path.endswith(f"step-00000020/{MANIFEST}") and data and not cleaned
        if ours and when.startswith("before"):
            cleaned.append(second._free_name(20))
        found = write(self, path, data, version)
        if ours and when.startswith("after"):
            cleaned.append(second._free_name(20))
        return found

    monkeypatch.setattr(CloudStorage, "write", beside)
    if when.startswith("before"):
        with pytest.raises(TlmError, match="another process commits"):
            _save(DIRECTORY, 20, first)
        assert cleaned == ["step-00000020"] and _newest() == 10
    else:  # a complete save is not taken for an interrupted one
        _save(DIRECTORY, 20, first)
        assert cleaned == ["step-00000020.1"] and _newest() == 20


def test_a_save_that_is_completed_while_it_counts_as_interrupted_stays(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(DIRECTORY, 10)
    second = Checkpoints(DIRECTORY)
    assert second.newest() is not None
    _save(DIRECTORY, 20)
    # What it listed just before.
    monkeypatch.setattr(second, "_complete", lambda names: ["step-00000010"])
    assert second._free_name(20) == "step-00000020.1" and _newest() == 20
