"""The stream: the example at a position is a pure function of dataset, seed and position."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.paths import ROOT
from tpu_tlm.config import MlmConfig
from tpu_tlm.data.dataset import shards, splitmix, stream
from tpu_tlm.data.dataset.dataset import Dataset
from tpu_tlm.data.dataset.records import token_layout
from tpu_tlm.data.dataset.stream import Stream, failure, first_examples, in_order
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.objectives.mlm import MaskedLanguageModeling, Specials
from tpu_tlm.training.evaluation import check_data

SIZES = [7, 7, 7, 7, 3]
N = sum(SIZES)


def _take(batches: tf.data.Dataset, count: int) -> list[dict[str, np.ndarray]]:
    return list(batches.take(count).as_numpy_iterator())


def _ids(batches: list[dict[str, np.ndarray]]) -> list[int]:
    """The numbers of the examples: their first ids."""
    return [int(i) for batch in batches for i in batch["x"][:, 0]]


def _plain(dataset: Dataset, seed: int, window: int, positions: range) -> list[int]:
    """The specified order, in plain Python: shards permuted, then rows in windows of shards."""
    starts = np.cumsum([0] + [shard.samples for shard in dataset.shards])
    order: dict[int, list[int]] = {}
    found = []
    for position in positions:
        epoch, place = divmod(position, dataset.num_samples)
        if epoch not in order:
            shards = np.argsort(
                splitmix.draws(splitmix.key_of(seed, 1, epoch), 0, len(dataset.shards))
            )
            order[epoch] = []
            for w in range(-(-len(shards) // window)):
                members = [
                    i
                    for s in shards[w * window : (w + 1) * window]
                    for i in range(starts[s], starts[s + 1])
                ]
                rows = np.argsort(
                    splitmix.draws(splitmix.key_of(seed, 2, epoch, w), 0, len(members))
                )
                order[epoch] += [members[r] for r in rows]
        found.append(order[epoch][place])
    return found


@pytest.mark.parametrize("window", [1, 2, 16])
def test_order_is_the_described_one_and_every_epoch_a_permutation(
    make_dataset, window: int
) -> None:
    dataset = make_dataset(SIZES)
    batches = _take(
        Stream(dataset, seed=3, batch_size=4, window_shards=window).batches(0), 3 * N // 4
    )
    ids = _ids(batches)
    assert ids == _plain(dataset, 3, window, range(len(ids)))
    assert [int(p) for batch in batches for p in batch["position"]] == list(range(len(ids)))
    epochs = [ids[:N], ids[N : 2 * N]]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(N)) and epochs[0] != epochs[1]
    other = _ids(
        _take(Stream(dataset, seed=4, batch_size=4, window_shards=window).batches(0), N // 4)
    )
    assert other != ids[: len(other)]


@pytest.mark.parametrize(("seq_length", "vocab_size"), [(8, 60000), (13, 65537)])
def test_contents(make_dataset, example, seq_length: int, vocab_size: int) -> None:
    dataset = make_dataset(SIZES, seq_length, vocab_size)
    spec = Stream(dataset, seed=0, batch_size=6).batches(0, hosts=2, host=1).element_spec
    assert {name: (tuple(s.shape), s.dtype.name) for name, s in spec.items()} == {
        "x": ((3, seq_length), "int32"),
        "w": ((3, -(-seq_length // 8)), "uint8"),
        "position": ((3,), "int64"),
    }
    for batch in _take(Stream(dataset, seed=0, batch_size=6).batches(0), 5):
        for row, bits in zip(batch["x"], batch["w"], strict=True):
            np.testing.assert_array_equal(row[1:], example(int(row[0]), seq_length, vocab_size)[1:])
            np.testing.assert_array_equal(
                np.unpackbits(bits, bitorder="little")[:seq_length], row % 2 == 0
            )


def test_hosts_batch_sizes_readers_and_blocks_do_not_change_the_order(
    make_dataset, monkeypatch
) -> None:
    dataset = make_dataset(SIZES)

    def order(batch_size: int, hosts: int, start: int, readers: int = 4) -> list[int]:
        made = Stream(dataset, seed=1, batch_size=batch_size, window_shards=2, readers=readers)
        shares = [
            _take(made.batches(start, hosts=hosts, host=h), 80 // batch_size) for h in range(hosts)
        ]
        merged = [_ids([share[b] for share in shares]) for b in range(80 // batch_size)]
        return [i for batch in merged for i in batch]

    whole = order(4, 1, 0)
    assert whole == order(8, 2, 0) == order(40, 4, 0, readers=1)
    for start in (1, 34):
        assert order(4, 2, start)[: 80 - start] == whole[start:]
    monkeypatch.setattr(stream, "_BLOCK_ROWS", 3)
    assert whole == order(4, 1, 0)


def test_large_shards_are_read_in_pieces(make_dataset, monkeypatch) -> None:
    monkeypatch.setattr(shards, "PIECE_BYTES", 10 * token_layout(8, 60000).record_bytes)
    dataset = make_dataset([50, 50, 20])
    made = Stream(dataset, seed=5, batch_size=10, window_shards=2)
    ids = _ids(_take(made.batches(0), 24))
    assert sorted(ids[:120]) == sorted(ids[120:]) == list(range(120))
    first = {i // 10 for i in ids[:20]}
    assert len(first) == 2 and all(
        ids[i] // 10 in first for i in range(20)
    )  # the first window: two pieces of ten
    assert ids[70:] == _ids(_take(made.batches(70), 17))


def test_a_batch_larger_than_the_dataset(make_dataset) -> None:
    dataset = make_dataset([3])
    (batch,) = _take(Stream(dataset, seed=0, batch_size=8).batches(0), 1)
    ids = _ids([batch])
    assert sorted(ids[:3]) == sorted(ids[3:6]) == [0, 1, 2]
    (only,) = _take(in_order(dataset, 8), 2)
    assert only["valid"].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("hosts", [1, 2])
def test_in_order_is_one_pass_filled_up(make_dataset, hosts: int) -> None:
    dataset = make_dataset(SIZES)
    shares = [_take(in_order(dataset, 8, hosts=hosts, host=h), 100) for h in range(hosts)]
    assert all(len(share) == 4 for share in shares)
    batches = [share[b] for b in range(4) for share in shares]
    assert _ids(batches)[:N] == list(range(N))
    assert [v for batch in batches for v in batch["valid"]] == [1.0] * N + [0.0] * (32 - N)


def test_mead_records(make_mead_dataset) -> None:
    dataset = make_mead_dataset([5, 0, 9, 2])
    made = Stream(dataset, seed=2, batch_size=4, window_shards=2)
    batches = _take(made.batches(0), 8)
    ids = _ids(batches)
    assert sorted(ids[:16]) == sorted(ids[16:]) == list(range(16)) and ids[:16] != ids[16:]
    assert ids[6:] == _ids(_take(made.batches(6), 7))[: len(ids) - 6]
    for batch in batches:
        assert sorted(batch) == ["position", "x", "y"] and batch["y"].dtype == np.int32
        np.testing.assert_array_equal(batch["y"], batch["x"] * 2)
    assert sorted(make_mead_dataset([4], with_y=False, name="causal").lengths) == ["x"]


def _failure_of(dataset: Dataset, batches: Any) -> TlmError:
    with pytest.raises(tf.errors.OpError) as caught:
        _take(batches, 100)
    return failure(dataset, caught.value)


def test_damage_is_named(make_dataset, make_mead_dataset) -> None:
    dataset = make_dataset(SIZES)
    path = Path(dataset.path(dataset.shards[2]))
    good = path.read_bytes()
    for place in (
        dataset.layout.offsets["x"] + 3,
        dataset.layout.offsets["w"],
        dataset.layout.record_bytes - 1,
    ):
        data = bytearray(good)
        data[place + 3 * dataset.layout.record_bytes] ^= 16
        path.write_bytes(data)
        assert path.name in str(
            _failure_of(dataset, Stream(dataset, seed=0, batch_size=4).batches(0))
        )
        assert path.name in str(_failure_of(dataset, in_order(dataset, 4)))
    path.write_bytes(good[:-5])
    assert path.name in str(_failure_of(dataset, in_order(dataset, 4)))
    path.unlink()
    assert path.name in str(_failure_of(dataset, in_order(dataset, 4)))

    mead = make_mead_dataset([6, 6])
    path = Path(mead.directory) / "rec-1.tfrecord"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    assert path.name in str(_failure_of(mead, in_order(mead, 4)))


@pytest.mark.parametrize("count", [3, 6, 100])
def test_the_first_examples_are_those_of_the_first_batch(
    make_dataset, make_mead_dataset, count: int
) -> None:
    for dataset in (make_dataset(SIZES), make_mead_dataset([0, 6, 9])):
        found = first_examples(dataset, count)
        rows = len(found["x"])
        assert rows == min(count, next(shard.samples for shard in dataset.shards if shard.samples))
        (batch,) = _take(in_order(dataset, rows), 1)
        assert found.keys() == batch.keys()
        for name, values in batch.items():
            np.testing.assert_array_equal(found[name], values)
            assert found[name].dtype == values.dtype


@pytest.mark.parametrize("change", ["flipped", "cut", "removed"])
def test_damage_of_the_first_examples_is_named(
    make_dataset, make_mead_dataset, change: str
) -> None:
    objective = MaskedLanguageModeling(MlmConfig(), Specials(50, 0, 4, (0, 1, 2, 3, 4)))
    for dataset in (make_dataset(SIZES), make_mead_dataset([6, 9])):
        path = Path(dataset.path(dataset.shards[0]))
        data = bytearray(path.read_bytes())
        data[-20] ^= 16
        path.write_bytes(data if change == "flipped" else data[:-5])
        if change == "removed":
            path.unlink()
        with pytest.raises(TlmError, match=path.name):
            check_data(objective, dataset)


def test_wrong_use(make_dataset) -> None:
    dataset = make_dataset([4])
    with pytest.raises(UsageError, match="--batch_size 5 cannot be divided among 2 hosts"):
        Stream(dataset, seed=0, batch_size=5).batches(0, hosts=2)
    with pytest.raises(UsageError):
        Stream(dataset, seed=0, batch_size=0)
    with pytest.raises(UsageError):
        Stream(dataset, seed=0, batch_size=4).batches(0, hosts=2, host=2)


def test_any_position_is_reached_at_once(make_dataset) -> None:
    dataset = make_dataset([3000] * 3, seq_length=16)
    made = Stream(dataset, seed=0, batch_size=32, window_shards=1)

    def cost(position: int) -> float:
        """CPU seconds to the first batch, the least of three tries."""
        found = []
        for _ in range(3):
            begun = time.process_time()
            (batch,) = _take(made.batches(position), 1)
            found.append(time.process_time() - begun)
            assert batch["position"][0] == position
        return min(found)

    near, far = cost(0), cost(32 * 10**9)
    assert far < 1.0 and far < 2 * near


QUIET = """
    import sys
    from tpu_tlm.data.dataset import stream
    from tpu_tlm.data.dataset.dataset import open_dataset

    stream._BLOCK_ROWS = 64
    for hosts, host in ((1, 0), (2, 1)):
        every = stream.Stream(open_dataset(sys.argv[1]), seed=0, batch_size=32)
        assert len(list(every.batches(0, hosts=hosts, host=host).take(40))) == 40
"""


def test_batches_across_windows_are_joined_without_log_messages(make_dataset) -> None:
    """TensorFlow logs an error, though there is none, for each part of a tensor that it joins."""
    # More rows than a block has, and batches that begin where memory is aligned: other parts are
    # copied first.
    dataset = make_dataset([200])
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-c", textwrap.dedent(QUIET), str(dataset.directory)]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0 and "RefCount" not in done.stderr, done.stderr
