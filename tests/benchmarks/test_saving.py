"""The timing of saves runs, and counts what it says."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from benchmarks import saving
from benchmarks.discarding_bucket import DiscardingBucket
from tests.toy import toy_dataset
from tpu_tlm import filesystem
from tpu_tlm.checkpoints.manager import Checkpoints

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_save_without_steps_beside_it(tmp_path):
    found = saving.alone(str(tmp_path), layers=1)
    # 31 million parameters and two slots: 0.37 GB, which the steps need not wait for.
    assert 0 <= found["stopped_cpu"] <= found["cpu"] and found["peak"] >= 0
    assert sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) > 3.6e8


def test_saves_beside_steps(tmp_path):
    flags, words, interval = saving.SIZES["toy"]
    data = str(toy_dataset(tmp_path / "data", words=words, examples=64))
    found = saving.measure(data, str(tmp_path / "run"), flags, interval)
    assert found["step"] > 0 and -1 < found["share"] < 1
    assert abs(found["lost"]) < interval * found["step"]


def test_a_bucket_that_keeps_no_large_object(tmp_path, monkeypatch):
    """A checkpoint is committed there, at the rate, and only its data are thrown away."""
    size = 12 << 20
    with DiscardingBucket(rate=24e6) as bucket:
        for name, value in bucket.environ.items():
            monkeypatch.setenv(name, value)
        values = {"model/a": np.arange(size // 4, dtype=np.float32)}
        began = time.monotonic()
        path = Checkpoints("gs://bucket/run/checkpoints").save(3, values, {"position": 1})
        assert time.monotonic() - began > size / 24e6
        assert bucket.received == size
        sizes = filesystem.file_sizes(path)
        assert sizes["variables.data-00000-of-00001"] == 0 and sizes["variables.index"] > 0
        found = Checkpoints("gs://bucket/run/checkpoints")
        assert found.steps() == [3]
        # The client compares the checksum that it is answered with its own.
        file = tmp_path / "file"
        file.write_bytes(bytes(9 << 20))
        filesystem.of("gs://bucket/x").send(str(file), "gs://bucket/x/file")
        assert bucket.received == size + (9 << 20)
        take = bucket.take
        monkeypatch.setattr(bucket, "take", lambda s, piece: take(s, memoryview(bytes(piece)[1:])))
        with pytest.raises(OSError, match="(?i)checksum|crc32c|corrupt|md5"):
            filesystem.of("gs://bucket/x").send(str(file), "gs://bucket/x/other")
