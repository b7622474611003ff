"""External shuffle: the order depends on seed and place, not on chunks and buckets."""

from __future__ import annotations

import numpy as np
import pytest

from tpu_tlm.data.dataset import splitmix
from tpu_tlm.data.preprocessing import external_sort


def _rows(part: int, count: int) -> np.ndarray:
    return np.array([[part, *divmod(i, 256)] for i in range(count)], np.uint8).reshape(count, 3)


def _write(
    directory, sizes: list[int], key: int | None, piece: int
) -> list[external_sort.SortedRun]:
    runs = []
    for part, size in enumerate(sizes):
        writer = external_sort.RunWriter(str(directory / f"part-{part}"), part, key)
        for at in range(0, size, piece):
            writer.add(_rows(part, size)[at : at + piece])
        runs.append(writer.close())
        assert runs[-1].is_whole(3)
    return runs


def _read(merge: external_sort.ExternalMerge, step: int) -> np.ndarray:
    pieces = [
        merge.read(a, b)
        for at in range(0, merge.rows, step)
        for a, b in merge.ranges(at, min(at + step, merge.rows))
    ]
    return np.concatenate(pieces)


def test_draws_agree_with_the_scalar_definition() -> None:
    key = splitmix.key_of(1, 2, 3)
    expected = [splitmix.mix(key + splitmix.STEP * (place + 1)) for place in range(5, 12)]
    assert splitmix.draws(key, 5, 7).tolist() == expected
    assert len({splitmix.key_of(a, b) for a in range(50) for b in range(50)}) == 2500
    assert (
        splitmix.mix(splitmix.STEP) == 0xE220A8397B1DCDAF
    )  # SplitMix64's first output from seed 0


@pytest.mark.parametrize("key", [None, 7])
def test_order_does_not_depend_on_chunks_or_buckets(tmp_path, monkeypatch, key: int | None) -> None:
    sizes = [400, 0, 900, 1, 300]
    everything = np.concatenate([_rows(part, size) for part, size in enumerate(sizes)])
    places = [
        splitmix.draws(splitmix.key_of(key or 0, part), 0, size) for part, size in enumerate(sizes)
    ]
    expected = everything if key is None else everything[np.argsort(np.concatenate(places))]
    for number, (chunk, bucket, piece, step) in enumerate(
        [(1 << 20, 1 << 20, 1000, 1601), (90, 200, 13, 77), (300, 64, 1, 500)]
    ):
        monkeypatch.setattr(external_sort, "CHUNK_BYTES", chunk)
        monkeypatch.setattr(external_sort, "BUCKET_BYTES", bucket)
        monkeypatch.setattr(external_sort, "_SAMPLE", 5)
        (directory := tmp_path / str(number)).mkdir()
        merge = external_sort.ExternalMerge(_write(directory, sizes, key, piece), 3)
        assert merge.rows == 1601
        np.testing.assert_array_equal(_read(merge, step), expected)
    if key is not None:
        order = np.argsort(np.concatenate(places))
        assert abs(np.corrcoef(np.arange(1601), order)[0, 1]) < 0.1


def test_a_cut_off_run_is_seen(tmp_path) -> None:
    run = _write(tmp_path, [10], 1, 10)[0]
    path = tmp_path / "part-0.rows"
    path.write_bytes(path.read_bytes()[:-1])
    assert not run.is_whole(3)
