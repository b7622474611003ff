"""The shards of a dataset directory: names, sizes, checksums, writing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tpu_tlm import filesystem
from tpu_tlm.data.dataset.checksums import piece_sums, record_sums
from tpu_tlm.data.dataset.records import Layout

FORMAT = 1
NAME = "tlm"
PIECE_BYTES = 4 << 20  # what a reader takes of a shard at once
_SHARDS_WANTED = 16  # of at least a piece each
_FRAMED_AT_ONCE = 2 << 20  # bytes
_OURS = re.compile(rf"{NAME}-\d{{5,}}-of-\d{{5,}}\.tfrecord")


@dataclass(frozen=True)
class Shard:
    """A file of records: name in the directory, examples, bytes, SHA-256, checksum of each piece.

    Of MEAD's records no checksums are known.
    """

    name: str
    samples: int
    bytes: int
    sha256: str = ""
    sums: tuple[str, ...] = ()


def shard_name(index: int, count: int) -> str:
    """The name of a shard, such as tlm-00007-of-00064.tfrecord."""
    return f"{NAME}-{index:05d}-of-{count:05d}.tfrecord"


def is_shard_name(name: str) -> bool:
    """Whether a file has the name of one of our shards."""
    return _OURS.fullmatch(name) is not None


def shard_sizes(samples: int, record_bytes: int, max_bytes: float) -> list[int]:
    """Examples per shard: the same in each but the last, none over `max_bytes` (at least one).

    Larger datasets get several shards even where one would do, so that processes can share writing
    and reading.
    """
    largest = max(1, int(max_bytes // record_bytes))
    count = max(-(-samples // largest), min(_SHARDS_WANTED, samples * record_bytes // PIECE_BYTES))
    each = -(-samples // count) if count else 0
    # Rounding up can leave nothing for the last shards.
    sizes = []
    while samples > 0:
        sizes.append(min(each, samples))
        samples -= sizes[-1]
    return sizes


def piece_samples(record_bytes: int) -> int:
    """Examples in a piece of a shard."""
    return max(1, PIECE_BYTES // record_bytes)


def write_shard(
    directory: str, name: str, layout: Layout, payloads: Iterable[NDArray[np.uint8]]
) -> Shard:
    """Write one shard from blocks of payloads, uint8 [n, payload_bytes].

    It appears under its name only when complete.
    """
    path = f"{directory.rstrip('/')}/{name}"
    digest = hashlib.sha256()
    sums = []
    step = max(1, _FRAMED_AT_ONCE // layout.record_bytes)
    with filesystem.naming(path), filesystem.replacing(path) as stream:
        for payload in payloads:
            for at in range(0, len(payload), step):
                records = layout.frame(payload[at : at + step])
                sums.append(record_sums(records))
                digest.update(records.data)
                stream.write(records.tobytes())
    every = np.concatenate(sums)
    size = len(every) * layout.record_bytes
    return Shard(
        name,
        len(every),
        size,
        digest.hexdigest(),
        tuple(piece_sums(every, piece_samples(layout.record_bytes))),
    )


def file_sha256(path: str) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with filesystem.naming(path), filesystem.open_read(path) as stream:
        while data := stream.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def remove_leftovers(directory: str, keep: Collection[str]) -> None:
    """Remove what earlier attempts left in a directory: `md.yml` first, then shards that are not
    to be kept and temporary files."""
    base, names = directory.rstrip("/"), filesystem.list_names(directory)
    metadata = "md.yml"
    for name in sorted(names, key=lambda name: name != metadata):
        temporary = name.endswith(".tmp") and (
            is_shard_name(name.split(".tfrecord")[0] + ".tfrecord") or name.startswith(metadata)
        )
        if name == metadata or temporary or (is_shard_name(name) and name not in keep):
            filesystem.remove(f"{base}/{name}")
