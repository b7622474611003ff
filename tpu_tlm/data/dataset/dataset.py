"""A dataset directory, opened and checked: format 1, or MEAD's own records (called format 0)."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.data.dataset import mead_records
from tpu_tlm.data.dataset.records import Layout, token_layout
from tpu_tlm.data.dataset.shards import FORMAT, METADATA, Shard, file_sha256, read_metadata
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.errors import TlmError, UsageError

TOKENIZER = "tokenizer"
WORK = ".preprocess"  # what an unfinished preprocessing leaves
_AGAIN = "restore it or preprocess again"


@dataclass(frozen=True)
class Dataset:
    """What `md.yml` says of a directory, checked against its files; `lengths` are the tokens of each feature ("x", "y")."""

    directory: str
    num_samples: int
    seq_length: int
    format: int
    shards: tuple[Shard, ...]
    tokenizer: dict[str, Any] | None
    metadata: Mapping[str, Any]
    lengths: Mapping[str, int]

    @property
    def layout(self) -> Layout:
        """The bytes of a record (format 1 only)."""
        assert self.format == FORMAT and self.tokenizer is not None
        return token_layout(
            self.seq_length, int(self.tokenizer["vocab_size"]), self.lengths.get("y")
        )

    @property
    def piece_samples(self) -> int:
        """Examples in a piece of a shard, which a reader takes at once (format 1 only)."""
        return int(self.metadata["piece_samples"])

    def path(self, shard: Shard) -> str:
        """Where a shard is."""
        return f"{self.directory.rstrip('/')}/{shard.name}"

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer that made the dataset, from its `tokenizer` directory; `UsageError` when there is none."""
        return load_tokenizer(f"{self.directory.rstrip('/')}/{TOKENIZER}")

    def verify(self) -> None:
        """Read every shard and check it whole; `TlmError` naming the damaged shard and record."""
        for shard in self.shards:
            if self.format != FORMAT:
                mead_records.verify(self.path(shard))
            elif file_sha256(self.path(shard)) != shard.sha256:
                raise TlmError(f"{self.path(shard)}: is damaged ({self._damage(shard)}): {_AGAIN}")

    def _damage(self, shard: Shard) -> str:
        layout = self.layout
        data = np.frombuffer(filesystem.read_bytes(self.path(shard)), np.uint8)
        if len(data) != shard.bytes:
            return f"{len(data):,} bytes, not {shard.bytes:,}"
        _, sound = layout.unframe(data.reshape(-1, layout.record_bytes))
        return (
            "not the file that was written"
            if sound.all()
            else f"first at record {int(np.argmin(sound))}"
        )


def open_dataset(directory: str) -> Dataset:
    """Open a dataset directory, local or gs://; the shards' presence and sizes are checked, their content is not (`verify`).

    Raises `UsageError` when it is no dataset, is unfinished, or lacks or holds a cut-off shard.
    """
    metadata = read_metadata(directory)
    if metadata is None:
        raise UsageError(_no_dataset(directory))
    samples, kind = metadata["num_samples"], metadata.get("format", 0)
    where = f"{directory.rstrip('/')}/{METADATA}"
    if isinstance(samples, dict):
        raise UsageError(
            f"{where}: num_samples is a map of lengths (MEAD's curriculum): that is not supported, preprocess one length"
        )
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        raise UsageError(f"{where}: num_samples is {samples!r}: the dataset holds no examples")
    if kind == 0:
        return _open_mead(directory, samples, metadata)
    if kind != FORMAT:
        raise UsageError(
            f"{where}: format {kind!r} is not known here: it was written by another version"
        )
    try:
        shards = tuple(
            Shard(
                str(s["name"]),
                int(s["samples"]),
                int(s["bytes"]),
                str(s["sha256"]),
                tuple(str(x) for x in s["sums"]),
            )
            for s in metadata["shards"]
        )
        seq_length, tokenizer, piece = (
            int(metadata["nctx"]),
            dict(metadata["tokenizer"]),
            int(metadata["piece_samples"]),
        )
        lengths = {"x": seq_length} | (
            {"y": int(metadata["nctx_y"])} if "nctx_y" in metadata else {}
        )
        layout = token_layout(seq_length, int(tokenizer["vocab_size"]), lengths.get("y"))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{where}: is damaged ({type(error).__name__}: {error}): {_AGAIN}"
        ) from None
    whole = (
        piece > 0
        and metadata.get("record_bytes") == layout.record_bytes
        and sum(shard.samples for shard in shards) == samples
    )
    if not whole or any(
        s.samples * layout.record_bytes != s.bytes or -(-s.samples // piece) != len(s.sums)
        for s in shards
    ):
        raise UsageError(f"{where}: its table of shards does not add up: {_AGAIN}")
    dataset = Dataset(directory, samples, seq_length, FORMAT, shards, tokenizer, metadata, lengths)
    _check_sizes(dataset)
    return dataset


def _no_dataset(directory: str) -> str:
    if not filesystem.is_directory(directory):
        return f"{directory}: no such dataset directory"
    names = filesystem.list_names(directory)
    if WORK in names:
        return f"{directory}: its preprocessing has not finished: run the same preprocess command again to continue it"
    if parts := [f"{directory.rstrip('/')}/{name}" for name in ("train", "valid") if name in names]:
        return f"{directory}: is no dataset (no {METADATA}): give {' or '.join(parts)}"
    return f"{directory}: is no dataset (no {METADATA}): make one with python -m tpu_tlm.preprocess"


def _check_sizes(dataset: Dataset) -> None:
    present = set(filesystem.list_names(dataset.directory))
    for shard in dataset.shards:
        if shard.name not in present:
            raise UsageError(f"{dataset.path(shard)}: is missing: {_AGAIN}")
    # One request a shard on an object store: ask for many at once.
    with ThreadPoolExecutor(16 if filesystem.is_remote(dataset.directory) else 1) as pool:
        for shard, size in zip(
            dataset.shards,
            pool.map(lambda s: filesystem.file_size(dataset.path(s)), dataset.shards),
            strict=True,
        ):
            if size != shard.bytes:
                raise UsageError(
                    f"{dataset.path(shard)}: has {size:,} bytes, not {shard.bytes:,}: {_AGAIN}"
                )


def _open_mead(directory: str, samples: int, metadata: dict[str, Any]) -> Dataset:
    base = directory.rstrip("/")
    names = mead_records.shard_names(directory)
    if not names:
        raise UsageError(
            f"{directory}: has {METADATA} but no .tfrecord files (MEAD's JSON and TSV records are not read)"
        )
    shards = tuple(
        Shard(name, mead_records.count(f"{base}/{name}"), filesystem.file_size(f"{base}/{name}"))
        for name in names
    )
    found = sum(shard.samples for shard in shards)
    if found != samples:
        raise UsageError(
            f"{base}/{METADATA}: says {samples:,} samples, its .tfrecord files hold {found:,}: correct it or preprocess again"
        )
    lengths = mead_records.first_lengths(
        next(f"{base}/{shard.name}" for shard in shards if shard.samples)
    )
    return Dataset(directory, samples, lengths["x"], 0, shards, None, metadata, lengths)


def check_same_tokenizer(a: dict[str, Any] | None, b: dict[str, Any] | None, what: str) -> None:
    """Refuse two tokenizer descriptions that differ; None (MEAD's records carry none) goes with any.

    `what` begins the message of the `UsageError`, such as "--valid_dir D and --train_dir E".
    """
    if a is None or b is None or a == b:
        return
    different = [key for key in sorted({*a, *b}) if a.get(key) != b.get(key)]
    told = (
        "; ".join(
            f"{key}: {a.get(key)} against {b.get(key)}"
            for key in different
            if key not in ("files", "special")
        )
        or "other files"
    )
    raise UsageError(
        f"{what} have different tokenizers ({told}): preprocess again with one tokenizer"
    )
