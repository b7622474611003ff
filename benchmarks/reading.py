"""Reading a dataset: tokens per second of the stream against plain tf.data pipelines over the same
shards.

    python -m benchmarks.reading [--seq_length 128] [--batch 32] [--examples 400000] [--rounds 5]
        [--before CHECKOUT]

Records of random ids are written to a temporary directory. Every reader is a child process, they
take turns, and each delivers whole batches of int32 ids to Python, as a training loop gets them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import Contender, alternate, directory_with, table

_VOCAB = 30000
_SHARD = 16 << 20


def write(directory: str, examples: int, seq_length: int) -> None:
    """A dataset of random ids in shards of 16 MiB."""
    from tpu_tlm.data.dataset.metadata import write_metadata
    from tpu_tlm.data.dataset.records import token_layout, token_payload
    from tpu_tlm.data.dataset.shards import shard_name, shard_sizes, write_shard

    layout, rng = token_layout(seq_length, _VOCAB), np.random.default_rng(0)
    sizes = shard_sizes(examples, layout.record_bytes, _SHARD)
    shards = []
    for index, size in enumerate(sizes):
        ids = rng.integers(5, _VOCAB, (size, seq_length))
        shards.append(
            write_shard(
                directory,
                shard_name(index, len(sizes)),
                layout,
                [token_payload(ids, ids % 3 > 0, _VOCAB)],
            )
        )
    write_metadata(
        directory,
        {"nctx": seq_length, "tokenizer": {"kind": "bpe", "vocab_size": _VOCAB}},
        layout,
        shards,
    )


def _timed(iterator: Any, batch: int, seq_length: int) -> Callable[[int], float]:
    def run(calls: int) -> float:
        begun = time.perf_counter()
        for _ in range(calls):
            next(iterator)
        return (time.perf_counter() - begun) / (calls * batch * seq_length)

    run(20)
    return run


def stream(directory: str, batch: int, seq_length: int) -> Callable[[int], float]:
    """Ours: position-addressed, checked, whole windows permuted."""
    from tpu_tlm.data.dataset.dataset import open_dataset
    from tpu_tlm.data.dataset.stream import Stream

    return _timed(
        iter(Stream(open_dataset(directory), seed=0, batch_size=batch).batches(0)),
        batch,
        seq_length,
    )


def plain(directory: str, batch: int, seq_length: int, buffer: int) -> Callable[[int], float]:
    """TensorFlow's usual pipeline: shuffled file names, interleave, a shuffle buffer, batch,
    then parse.
    """
    import tensorflow as tf

    spec = {name: tf.io.FixedLenFeature([], tf.string) for name in ("x", "w")}

    def parse(records: Any) -> dict[str, Any]:
        parsed = tf.io.parse_example(records, spec)
        ids = tf.reshape(tf.io.decode_raw(parsed["x"], tf.uint16), [batch, seq_length])
        return {"x": tf.cast(ids, tf.int32), "w": tf.io.decode_raw(parsed["w"], tf.uint8)}

    files = tf.data.Dataset.list_files(os.path.join(directory, "*.tfrecord"), seed=0).repeat()
    records = files.interleave(
        tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=tf.data.AUTOTUNE
    )
    if buffer:
        records = records.shuffle(buffer, seed=0)
    return _timed(
        iter(
            records.batch(batch, drop_remainder=True)
            .map(parse, tf.data.AUTOTUNE)
            .prefetch(tf.data.AUTOTUNE)
        ),
        batch,
        seq_length,
    )


def reach(directory: str, position: int) -> Callable[[int], float]:
    """Seconds from nothing (TensorFlow imported) to the first batch at a position."""
    from tpu_tlm.data.dataset.dataset import open_dataset
    from tpu_tlm.data.dataset.stream import Stream

    def run(calls: int) -> float:
        begun = time.perf_counter()
        for _ in range(calls):
            next(iter(Stream(open_dataset(directory), seed=0, batch_size=32).batches(position)))
        return (time.perf_counter() - begun) / calls

    run(1)
    return run


def main() -> None:
    """Write the records, let the readers take turns, print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seq_length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--examples", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--before",
        type=directory_with("benchmarks"),
        help="another checkout, which writes and reads too",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        if options.before:
            # What an older version wrote is read by both.
            made = "import sys; from benchmarks.reading import write; "
            made += "write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"
            size = [str(options.examples), str(options.seq_length)]
            subprocess.run(
                [sys.executable, "-c", made, directory, *size],
                env={**os.environ, "PYTHONPATH": str(options.before)},
                cwd=options.before,
                check=True,
            )
        else:
            write(directory, options.examples, options.seq_length)
        arguments = (directory, options.batch, options.seq_length)
        contenders = [
            Contender(
                "plain tf.data, shuffle buffer of 10,000",
                "benchmarks.reading:plain",
                (*arguments, 10_000),
            ),
            Contender("plain tf.data, no shuffling", "benchmarks.reading:plain", (*arguments, 0)),
            Contender("our stream", "benchmarks.reading:stream", arguments),
        ]
        if options.before:
            earlier = options.before
            contenders.append(
                Contender("our stream before", "benchmarks.reading:stream", arguments, earlier)
            )
        results = alternate(contenders, options.rounds, options.examples // options.batch // 4)
        print(table(f"reading, nctx {options.seq_length}, batch {options.batch}", results, "token"))
        for result in results:
            print(
                f"{result.name}: {1 / sorted(result.seconds)[len(result.seconds) // 2] / 1e6:.1f} "
                "M tokens/s"
            )
        far = Contender(
            "our stream",
            "benchmarks.reading:reach",
            (directory, 7 * options.examples + options.examples // 3),
        )
        (found,) = alternate([far], 3)
        print(
            f"to the first batch of epoch 7, a third in: {min(found.seconds):.2f} to "
            f"{max(found.seconds):.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
