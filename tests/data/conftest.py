"""Small datasets written without the preprocessing command; a Dask cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.paths import ROOT
from tests.ports import free_ports
from tpu_tlm.data.dataset.dataset import Dataset, open_dataset
from tpu_tlm.data.dataset.metadata import write_metadata
from tpu_tlm.data.dataset.records import token_layout, token_payload
from tpu_tlm.data.dataset.shards import shard_name, write_shard


def _example(number: int, seq_length: int, vocab_size: int) -> np.ndarray:
    return np.random.default_rng(number).integers(5, vocab_size, seq_length)


@pytest.fixture
def example() -> Callable[[int, int, int], np.ndarray]:
    """The ids of example `number` of a made dataset, of which the first is then the number."""
    return _example


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Dataset]:
    """A function (sizes of the shards, seq_length, vocab_size) -> dataset of `example(i)`."""

    def make(
        sizes: Sequence[int], seq_length: int = 8, vocab_size: int = 60000, name: str = "data"
    ) -> Dataset:
        directory = tmp_path / name
        directory.mkdir()
        ids = np.stack([_example(i, seq_length, vocab_size) for i in range(sum(sizes))])
        ids[:, 0] = np.arange(len(ids))
        payload = token_payload(ids, ids % 2 == 0, vocab_size)
        layout, at, shards = token_layout(seq_length, vocab_size), 0, []
        for index, size in enumerate(sizes):
            blocks = [payload[at : at + size // 2], payload[at + size // 2 : at + size]]
            shards.append(
                write_shard(str(directory), shard_name(index, len(sizes)), layout, blocks)
            )
            at += size
        write_metadata(
            str(directory),
            {"nctx": seq_length, "tokenizer": {"kind": "bpe", "vocab_size": vocab_size}},
            layout,
            shards,
        )
        return open_dataset(str(directory))

    return make


@pytest.fixture
def make_mead_dataset(tmp_path: Path) -> Callable[..., Dataset]:
    """The same as MEAD writes it: int64 `x` and `y`, a plain md.yml."""

    def make(
        sizes: Sequence[int],
        seq_length: int = 8,
        with_y: bool = True,
        name: str = "mead",
        seq_length_y: int | None = None,
    ) -> Dataset:
        import tensorflow as tf

        directory = tmp_path / name
        directory.mkdir()
        number = 0
        for index, size in enumerate(sizes):
            with tf.io.TFRecordWriter(str(directory / f"rec-{index}.tfrecord")) as writer:
                for _ in range(size):
                    x = [number, *(int(i) for i in _example(number, seq_length, 60000)[1:])]
                    values = {
                        "x": x,
                        **({"y": [i * 2 for i in x[:seq_length_y]]} if with_y else {}),
                    }
                    feature = {
                        k: tf.train.Feature(int64_list=tf.train.Int64List(value=v))
                        for k, v in values.items()
                    }
                    writer.write(
                        tf.train.Example(
                            features=tf.train.Features(feature=feature)
                        ).SerializeToString()
                    )
                    number += 1
        (directory / "md.yml").write_text(f"num_samples: {number}\n")
        return open_dataset(str(directory))

    return make


@pytest.fixture
def cluster() -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A Dask scheduler and two workers on loopback."""
    pytest.importorskip("distributed")
    (port,) = free_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    dask = [sys.executable, "-m", "dask"]
    start = [[*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]]
    start += [[*dask, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]] * 2
    processes = [subprocess.Popen(one, env=env, stderr=subprocess.DEVNULL) for one in start]
    yield address, processes
    for process in processes:
        process.kill()
        process.wait()


def kill_a_busy_worker(
    address: str, processes: list[subprocess.Popen[bytes]], pipeline: subprocess.Popen[bytes]
) -> None:
    """Kill a worker of the `cluster` as soon as there is work; the pipeline must end well."""
    from distributed import Client

    with Client(address) as client:
        while not any(client.processing().values()):
            assert pipeline.poll() is None, "ended before a worker had work"
            time.sleep(0.02)
    processes[1].send_signal(signal.SIGKILL)
    assert pipeline.wait(300) == 0
