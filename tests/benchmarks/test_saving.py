"""The timing of saves runs, and counts what it says."""

from __future__ import annotations

import sys

import pytest

from benchmarks import saving
from tests.toy import toy_dataset

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
