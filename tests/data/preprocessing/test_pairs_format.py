"""Pairs in the dataset format: a second text through writing, opening and streaming."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from tests.toy import toy_dataset, toy_pairs
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.data.dataset.stream import Stream, in_order


def test_pairs_are_read_with_their_two_lengths(tmp_path: Path) -> None:
    dataset = open_dataset(
        str(toy_pairs(tmp_path / "data", examples=20, seq_length=16, seq_length_y=12))
    )
    dataset.verify()
    assert dict(dataset.lengths) == {"x": 16, "y": 12} and dataset.seq_length == 16
    batches = list(in_order(dataset, 8).as_numpy_iterator())
    assert (
        batches[0]["x"].shape == (8, 16)
        and batches[0]["y"].shape == (8, 12)
        and batches[0]["y"].dtype == np.int32
    )
    for batch in batches:
        for x, y in zip(batch["x"], batch["y"], strict=True):
            last, after = x[x > 0][-1] - 5, y[1] - 5
            assert (
                (last + 1) % 40 == after and y[0] == 2 and (y == 3).sum() == 1 and y[-1] in (0, 3)
            )


def test_a_stream_of_pairs_keeps_them_together_in_any_order(tmp_path: Path) -> None:
    dataset = open_dataset(str(toy_pairs(tmp_path / "data", examples=20)))
    written = [
        pair
        for b in in_order(dataset, 4).as_numpy_iterator()
        for pair in zip(b["x"], b["y"], strict=True)
    ]
    batch = next(Stream(dataset, seed=3, batch_size=20).batches(40).as_numpy_iterator())
    read = list(zip(batch["x"], batch["y"], strict=True))
    as_bytes = [sorted((x.tobytes(), y.tobytes()) for x, y in pairs) for pairs in (written, read)]
    assert as_bytes[0] == as_bytes[1]
    assert [x.tobytes() for x, _ in written] != [x.tobytes() for x, _ in read]
    assert sorted(batch["position"]) == list(range(40, 60))


def test_datasets_without_pairs_have_no_second_length(tmp_path: Path) -> None:
    directory = toy_dataset(tmp_path / "data", examples=6)
    assert "nctx_y" not in yaml.safe_load((directory / "md.yml").read_text())
    assert set(next(in_order(open_dataset(str(directory)), 2).as_numpy_iterator())) == {
        "x",
        "w",
        "position",
        "valid",
    }


def test_pairs_of_mead_have_a_second_length_of_their_own(make_mead_dataset) -> None:  # type: ignore[no-untyped-def]
    dataset = make_mead_dataset([5], seq_length=8, seq_length_y=3)
    assert dict(dataset.lengths) == {"x": 8, "y": 3}
    batch = next(in_order(dataset, 5).as_numpy_iterator())
    np.testing.assert_array_equal(batch["y"], batch["x"][:, :3] * 2)
