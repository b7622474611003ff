from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import tensorflow as tf

from tpu_tlm.checkpoints import tensor_bundle
from tpu_tlm.checkpoints.data_file import DataFile
from tpu_tlm.checkpoints.manager import Checkpoints
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.filesystem import LocalDisk
from tpu_tlm.filesystem.base import Progress
from tpu_tlm.filesystem.tensorflow_files import TensorFlowFiles


def _variables(step: int) -> dict[str, np.ndarray]:
    return {
        "encoder/kernel": np.arange(24, dtype=np.float32).reshape(4, 6) + step,
        "optimizer/m/encoder/kernel": np.full(7, step, np.float32),
    }


def _save(directory: Path | str, *steps: int, **options) -> Checkpoints:
    checkpoints = Checkpoints(str(directory), **options)
    for step in steps:
        checkpoints.save(step, _variables(step), {"position": step * 32, "seed": 7})
    return checkpoints


def _assert_newest(directory: Path | str, step: int) -> Checkpoints:
    checkpoints = Checkpoints(str(directory))
    found = checkpoints.newest()
    assert (
        found is not None
        and found.step == step
        and found.state == {"position": step * 32, "seed": 7}
    )
    loaded = found.load()
    assert loaded.keys() == _variables(step).keys()
    for name, want in _variables(step).items():
        assert np.array_equal(loaded[name], want) and loaded[name].dtype == want.dtype
    return checkpoints


def _steps(directory: Path) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name.startswith("step-"))


def test_an_empty_directory(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path / "none"))
    assert checkpoints.newest() is None and checkpoints.skipped == [] and checkpoints.steps() == []


def test_saved_variables_are_restored_and_tensorflow_reads_them(tmp_path: Path) -> None:
    _save(tmp_path, 100, 200)
    assert _assert_newest(tmp_path, 200).skipped == []
    prefix = tf.train.latest_checkpoint(str(tmp_path))
    assert prefix == str(tmp_path / "step-00000200" / "variables")
    reader = tf.train.load_checkpoint(prefix)
    assert reader.get_variable_to_shape_map() == {
        "encoder/kernel": [4, 6],
        "optimizer/m/encoder/kernel": [7],
    }
    assert np.array_equal(reader.get_tensor("encoder/kernel"), _variables(200)["encoder/kernel"])


def test_dtypes_and_shapes(tmp_path: Path) -> None:
    values = {
        "variable": tf.Variable([[1.5, 2.5]]),
        "half": tf.constant([1.0, 2.0], tf.bfloat16),
        "count": np.int64(2**40 + 1),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 3), np.float32),
    }
    Checkpoints(str(tmp_path)).save(1, values, {})
    found = Checkpoints(str(tmp_path)).newest()
    assert found is not None
    loaded = found.load()
    assert (
        loaded["count"] == 2**40 + 1
        and loaded["count"].dtype == np.int64
        and loaded["count"].shape == ()
    )
    assert loaded["half"].dtype == tf.bfloat16.as_numpy_dtype and loaded["half"].astype(
        np.float32
    ).tolist() == [1.0, 2.0]
    assert (
        loaded["variable"].tolist() == [[1.5, 2.5]]
        and loaded["flags"].tolist() == [True, False]
        and loaded["empty"].shape == (0, 3)
    )
    with pytest.raises(TypeError, match="words"):
        Checkpoints(str(tmp_path)).save(2, {"words": np.array(["a", "b"])}, {})


def test_files_are_written_locally_when_the_default_device_is_remote(tmp_path: Path) -> None:
    """As after connecting to a TPU of another machine."""
    with tf.device("/job:worker/replica:0/task:0"):
        tensor_bundle.write(str(tmp_path / "there"), {"a": np.arange(3.0)})
    assert tf.train.load_checkpoint(str(tmp_path / "there")).get_tensor("a").tolist() == [
        0.0,
        1.0,
        2.0,
    ]


def test_the_bundle_reader_agrees_with_tensorflow_over_many_blocks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Long names with shared beginnings, enough of them for several blocks of the table.
    arrays = {
        f"{'layer' * 60}/{i:05d}/{'kernel' * (i % 7)}": rng.normal(size=(i % 3, 2)).astype(
            np.float32
        )
        for i in range(9000)
    }
    prefix = str(tmp_path / "variables")
    tensor_bundle.write(prefix, arrays)
    index = Path(prefix + tensor_bundle.INDEX).read_bytes()
    assert len(index) > 2 * 262_144, "more than one block"
    with open(prefix + tensor_bundle.DATA, "rb") as stream:
        data = DataFile(stream, "data")
    loaded = tensor_bundle.Tensors(index, data)
    assert loaded.keys() == arrays.keys() and all(
        np.array_equal(loaded[name], arrays[name]) for name in arrays
    )
    with pytest.raises(ValueError):
        tensor_bundle.Tensors(b"x" * 100, data)


def _flip(path: Path, at: int = -1) -> None:
    raw = bytearray(path.read_bytes())
    raw[at if at >= 0 else len(raw) // 2] ^= 1
    path.write_bytes(raw)


DAMAGE = {
    "truncated data": (
        lambda d: os.truncate(d / ("variables" + tensor_bundle.DATA), 40),
        r"data.* has 40 bytes where 124",
    ),
    "flipped bit in the data": (
        lambda d: _flip(d / ("variables" + tensor_bundle.DATA)),
        "data.* checksum",
    ),
    "flipped bit in the index": (
        lambda d: _flip(d / "variables.index"),
        "variables.index .* checksum",
    ),
    "missing file": (lambda d: (d / "variables.index").unlink(), "variables.index is missing"),
    "missing manifest": (lambda d: (d / "manifest.json").unlink(), "half-written: .* no manifest"),
    "empty manifest": (
        lambda d: (d / "manifest.json").write_bytes(b""),
        "manifest.json is not what was written",
    ),
    "another JSON as manifest": (
        lambda d: (d / "manifest.json").write_bytes(b"[1]"),
        "manifest.json is not what was written",
    ),
    "changed position in the manifest": (
        lambda d: (d / "manifest.json").write_text(
            (d / "manifest.json").read_text().replace('"position": 9600', '"position": 9601')
        ),
        "manifest.json does not have the checksum",
    ),
    "empty directory": (lambda d: [path.unlink() for path in d.iterdir()], "half-written"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, kind: str
) -> None:
    damage, reason = DAMAGE[kind]
    _save(tmp_path, 100, 200, 300)
    damage(tmp_path / "step-00000300")
    checkpoints = _assert_newest(tmp_path, 200)
    [skipped] = checkpoints.skipped
    assert skipped.path == str(tmp_path / "step-00000300") and re.search(reason, skipped.reason)
    # The run continues: the damaged one is not counted as kept, and is deleted.
    checkpoints.keep = 2
    checkpoints.save(400, _variables(400), {"position": 400 * 32, "seed": 7})
    assert _steps(tmp_path) == ["step-00000200", "step-00000400"]


def test_two_damaged_in_a_row_and_all_damaged(tmp_path: Path) -> None:
    _save(tmp_path, 1, 2, 3)
    _flip(tmp_path / "step-00000003" / ("variables" + tensor_bundle.DATA))
    (tmp_path / "step-00000002" / "variables.index").unlink()
    assert len(_assert_newest(tmp_path, 1).skipped) == 2
    _flip(tmp_path / "step-00000001" / "manifest.json")
    checkpoints = Checkpoints(str(tmp_path))
    assert checkpoints.newest() is None and len(checkpoints.skipped) == 3


@pytest.mark.parametrize("kind", ["missing", "empty", "flipped", "to nothing"])
def test_a_bad_pointer_is_named_and_the_newest_good_one_is_used(tmp_path: Path, kind: str) -> None:
    _save(tmp_path, 100, 200)
    pointer = tmp_path / "checkpoint"
    if kind == "missing":
        pointer.unlink()
    elif kind == "empty":
        pointer.write_bytes(b"")
    elif kind == "flipped":
        pointer.write_text(pointer.read_text().replace("step-00000200", "step-00000100"))
    else:
        os.rename(tmp_path / "step-00000200", tmp_path / "elsewhere")
    checkpoints = _assert_newest(tmp_path, 100 if kind == "to nothing" else 200)
    if kind == "missing":
        assert checkpoints.skipped == []
    else:
        [skipped] = checkpoints.skipped
        assert skipped.path == str(
            tmp_path / ("step-00000200" if kind == "to nothing" else "checkpoint")
        )
        assert ("not there" if kind == "to nothing" else "damaged") in skipped.reason


def test_a_complete_checkpoint_newer_than_the_pointer_is_a_last_resort(
    tmp_path: Path,
) -> None:
    _save(tmp_path, 100)
    pointer = (tmp_path / "checkpoint").read_bytes()
    _save(tmp_path, 200)
    (tmp_path / "checkpoint").write_bytes(pointer)
    [skipped] = _assert_newest(tmp_path, 100).skipped
    assert skipped.path.endswith("step-00000200") and "not committed" in skipped.reason
    (tmp_path / "step-00000100" / "variables.index").unlink()
    _assert_newest(tmp_path, 200)


def test_keeping_the_newest_and_every_nth(tmp_path: Path) -> None:
    _save(tmp_path, *range(10, 130, 10), keep=2, keep_every=50)
    assert _steps(tmp_path) == ["step-00000050", "step-00000100", "step-00000110", "step-00000120"]
    _save(tmp_path, 130, keep=1)
    assert _steps(tmp_path) == ["step-00000130"]
    for options in ({"keep": 0}, {"keep_every": -1}):
        with pytest.raises(UsageError, match="--keep"):
            Checkpoints(str(tmp_path), **options)


def test_saving_a_step_again_never_touches_the_one_in_force(tmp_path: Path) -> None:
    checkpoints = _save(tmp_path, 100, keep=1)
    checkpoints.save(100, _variables(5), {"again": 1})
    assert _steps(tmp_path) == ["step-00000100.1"]
    found = Checkpoints(str(tmp_path)).newest()
    assert found is not None and found.step == 100 and found.state == {"again": 1}
    assert np.array_equal(found.load()["encoder/kernel"], _variables(5)["encoder/kernel"])
    assert Checkpoints(str(tmp_path)).at(100).state == {"again": 1}


def test_continuing_from_an_older_step_deletes_later_ones(tmp_path: Path) -> None:
    checkpoints = _save(tmp_path, 100, 200, 300)
    assert checkpoints.at(100).step == 100
    checkpoints.save(150, _variables(150), {"position": 150 * 32, "seed": 7})
    assert _steps(tmp_path) == ["step-00000100", "step-00000150"]
    _assert_newest(tmp_path, 150)


def test_pruning_waits_for_the_commit(tmp_path: Path) -> None:
    _save(tmp_path, 1, 2, keep=2)

    class Full(LocalDisk):
        def write(self, path: str, data: bytes, version: int | None = None) -> int | None:
            raise OSError(28, "No space left on device")

    with pytest.raises(TlmError, match="checkpoint of step 3 could not be written.*No space left"):
        Checkpoints(str(tmp_path), keep=1, files=Full()).save(3, _variables(3), {})
    assert set(_steps(tmp_path)) >= {"step-00000001", "step-00000002"}
    _assert_newest(tmp_path, 2)


def test_an_unreadable_file_is_skipped_but_never_deleted_as_damaged(tmp_path: Path) -> None:
    _save(tmp_path, 1, 2)

    class Flaky(LocalDisk):
        broken = True

        def open_local(self, path: str, progress: Progress | None = None) -> BinaryIO:
            if self.broken and "00002/variables.data" in path:
                raise OSError(5, "Input/output error")
            return super().open_local(path, progress)

    storage = Flaky()
    checkpoints = Checkpoints(str(tmp_path), files=storage)
    found = checkpoints.newest()
    assert (
        found is not None
        and found.step == 1
        and "Input/output error" in checkpoints.skipped[0].reason
    )
    storage.broken = False
    checkpoints.save(3, _variables(3), {})
    assert "step-00000002" in _steps(tmp_path)


def test_a_step_that_is_not_there_or_damaged(tmp_path: Path) -> None:
    checkpoints = _save(tmp_path, 100, 200)
    with pytest.raises(TlmError, match="no checkpoint of step 150; there are: 100, 200"):
        checkpoints.at(150)
    _flip(tmp_path / "step-00000100" / "variables.index")
    with pytest.raises(TlmError, match="step-00000100 is damaged: variables.index"):
        checkpoints.at(100)


def test_a_format_of_the_future_is_an_error_and_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tpu_tlm.checkpoints.manifest.FORMAT", 2)
    _save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(TlmError, match="has format 2"):
        Checkpoints(str(tmp_path)).newest()


def test_each_file_is_read_once(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    reads: list[str] = []

    class Counting(LocalDisk):
        def read(self, path: str) -> bytes:
            reads.append(os.path.basename(path))
            return super().read(path)

        def open_local(self, path: str, progress: Progress | None = None) -> BinaryIO:
            reads.append(os.path.basename(path))
            return super().open_local(path, progress)

    found = Checkpoints(str(tmp_path), files=Counting()).newest()
    assert found is not None
    for path in (tmp_path / "step-00000001").iterdir():
        path.unlink()
    assert np.array_equal(found.load()["encoder/kernel"], _variables(1)["encoder/kernel"])
    assert sorted(reads) == sorted(
        ["checkpoint", "manifest.json", "variables.index", "variables" + tensor_bundle.DATA]
    )


def test_arrays_are_read_one_by_one_from_the_file_that_was_verified(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    found = Checkpoints(str(tmp_path)).newest()
    assert found is not None
    loaded = found.load()
    data = tmp_path / "step-00000001" / ("variables" + tensor_bundle.DATA)
    # A file of the same name in its place changes nothing.
    data.rename(tmp_path / "kept")
    data.write_bytes(bytes(124))
    array = loaded["encoder/kernel"]
    assert np.array_equal(array, _variables(1)["encoder/kernel"]) and not array.flags.writeable
    assert loaded["encoder/kernel"] is not array, "not held in memory"
    with pytest.raises(KeyError):
        loaded["none"]
    _flip(tmp_path / "kept")
    os.utime(tmp_path / "kept", ns=(0, 0))
    with pytest.raises(TlmError, match=r"data-00000-of-00001: was changed"):
        loaded["encoder/kernel"]


def test_the_manifest_has_state_and_checksums(tmp_path: Path) -> None:
    _save(tmp_path, 5)
    manifest = json.loads((tmp_path / "step-00000005" / "manifest.json").read_text())
    assert (
        manifest["state"] == {"position": 160, "seed": 7}
        and manifest["step"] == 5
        and manifest["format"] == 1
    )
    assert set(manifest["files"]) == {"variables.index", "variables" + tensor_bundle.DATA}


def test_object_storage_without_renaming(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow's in-memory file system, with every renaming forbidden."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("object storage cannot rename")

    class Ram(TensorFlowFiles):
        def write(self, path: str, data: bytes, version: int | None = None) -> int | None:
            # TensorFlow's memory file system appends to a file that is there.
            self.remove(path)
            return super().write(path, data, version)

    monkeypatch.setattr(tf.io.gfile, "rename", refuse)
    monkeypatch.setattr("tpu_tlm.filesystem.of", lambda _: Ram())
    directory = "ram://bucket/run/checkpoints"
    assert Checkpoints(directory).newest() is None
    _save(directory, 10, 20, 30, 40, keep=2, keep_every=20)
    assert sorted(tf.io.gfile.listdir(directory)) == [
        "checkpoint",
        "step-00000020",
        "step-00000030",
        "step-00000040",
    ]
    assert _assert_newest(directory, 40).skipped == []
    Ram().write(f"{directory}/step-00000040/variables.index", b"short")
    tf.io.gfile.remove(f"{directory}/step-00000030/manifest.json")
    checkpoints = _assert_newest(directory, 20)
    assert [s.path.rsplit("/", 1)[1] for s in checkpoints.skipped] == [
        "step-00000040",
        "step-00000030",
    ]
    checkpoints.save(50, _variables(50), {"position": 1600, "seed": 7})
    assert sorted(tf.io.gfile.listdir(directory)) == [
        "checkpoint",
        "step-00000020",
        "step-00000050",
    ]
    _assert_newest(directory, 50)
