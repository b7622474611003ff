"""The files of a dataset directory: shards with their checksums, and `md.yml`, which is written last."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from tpu_tlm import filesystem
from tpu_tlm.data.dataset.checksums import piece_sums, record_sums
from tpu_tlm.data.dataset.records import Layout
from tpu_tlm.errors import UsageError

FORMAT = 1
METADATA = "md.yml"
NAME = "tlm"
PIECE_BYTES = 4 << 20  # what a reader takes of a shard at once
_SHARDS_WANTED = 16  # of at least a piece each
_FRAMED_AT_ONCE = 2 << 20  # bytes
_OURS = re.compile(rf"{NAME}-\d{{5,}}-of-\d{{5,}}\.tfrecord")


@dataclass(frozen=True)
class Shard:
    """A file of records: its name in the directory, its examples and bytes, its SHA-256, and the checksum of each piece of it.

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
    """Examples per shard: as even as can be, the same in each but the last, none over `max_bytes` (at least one example).

    Datasets of some size get several shards even where one would do, so that processes can share writing and reading.
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
    """Write one shard from blocks of payloads (uint8 [n, payload_bytes]); it appears under its name only when complete."""
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


def write_metadata(
    directory: str, metadata: Mapping[str, Any], layout: Layout, shards: Sequence[Shard]
) -> None:
    """Write `md.yml`: from then on the directory is a dataset.

    `metadata` are its keys beside `num_samples`, `format`, `record_bytes`, `piece_samples` and `shards`; values are JSON's.
    """
    head: dict[str, Any] = {
        "num_samples": sum(shard.samples for shard in shards),
        "format": FORMAT,
        **metadata,
    }
    head |= {
        "record_bytes": layout.record_bytes,
        "piece_samples": piece_samples(layout.record_bytes),
    }
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1 << 30)
    # One line a shard, so that a reader sees the table at a glance: these values are plain enough for JSON to be YAML.
    table = "".join(f"- {json.dumps(asdict(shard))}\n" for shard in shards)
    filesystem.write_bytes(
        f"{directory.rstrip('/')}/{METADATA}", f"{text}shards:\n{table}".encode()
    )


def read_metadata(directory: str) -> dict[str, Any] | None:
    """The content of `md.yml`, or None where there is none; `UsageError` when it cannot be read."""
    path = f"{directory.rstrip('/')}/{METADATA}"
    if not filesystem.exists(path):
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        loaded = yaml.load(
            filesystem.read_bytes(path), loader
        )  # a safe loader, in C where there is one
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: is not YAML: {error}: make the dataset again") from None
    if not isinstance(loaded, dict) or "num_samples" not in loaded:
        raise UsageError(f"{path}: has no num_samples: make the dataset again")
    return loaded


def remove_leftovers(directory: str, keep: Collection[str]) -> None:
    """Remove what older or killed attempts left in a directory: `md.yml` first, our shards but those to keep, temporary files."""
    base, names = directory.rstrip("/"), filesystem.list_names(directory)
    for name in sorted(names, key=lambda name: name != METADATA):
        temporary = name.endswith(".tmp") and (
            is_shard_name(name.split(".tfrecord")[0] + ".tfrecord") or name.startswith(METADATA)
        )
        if name == METADATA or temporary or (is_shard_name(name) and name not in keep):
            filesystem.remove(f"{base}/{name}")
