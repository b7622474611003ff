"""A dataset directory, opened and checked: format 1, or MEAD's own records (called format 0)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.data.dataset import mead_records
from tpu_tlm.data.dataset.metadata import METADATA, RESTORE, read_metadata
from tpu_tlm.data.dataset.records import Layout, token_layout
from tpu_tlm.data.dataset.shards import FORMAT, Shard, file_sha256
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.errors import TlmError, UsageError

TOKENIZER = "tokenizer"
WORK = ".preprocess"  # what an unfinished preprocessing leaves
_SCANNED_BYTES = 16 << 20  # of the first pieces, for ids outside of the vocabulary
# Keys of md.yml that name tokens; "<EOS>" stands for the separator.
_FRAME = ("prefix", "suffix", "tok_on_eol", "y_prefix", "y_suffix", "turn_sep")


@dataclass(frozen=True)
class Dataset:
    """What `md.yml` says of a directory, checked against its files.

    lengths: tokens of each feature ("x", "y"); vocab_size: ids are below it, None where nothing
    says (MEAD's records before `for_tokenizer`).
    """

    directory: str
    num_samples: int
    seq_length: int
    format: int
    shards: tuple[Shard, ...]
    tokenizer: dict[str, Any] | None
    metadata: Mapping[str, Any]
    lengths: Mapping[str, int]
    vocab_size: int | None = None

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
        """The tokenizer that made the dataset, from its `tokenizer` directory.

        Raises `UsageError` when there is none.
        """
        return load_tokenizer(f"{self.directory.rstrip('/')}/{TOKENIZER}")

    def for_tokenizer(self, tokenizer: Tokenizer) -> Dataset:
        """The same dataset with ids below the tokenizer's size, of which the first were checked.

        Raises `UsageError` for an id outside of the vocabulary, or a token in `md.yml` that the
        vocabulary does not have.
        """
        for key in _FRAME:
            token = self.metadata.get(key)
            if isinstance(token, str) and token != "<EOS>" and tokenizer.id_of(token) is None:
                raise UsageError(
                    f"{self.directory.rstrip('/')}/{METADATA}: is damaged: {key} is {token!r}, "
                    f"which the vocabulary does not have: {RESTORE}"
                )
        found = replace(self, vocab_size=len(tokenizer.tokens))
        found.check_records(_SCANNED_BYTES)
        return found

    def check_records(self, most_bytes: int | None = None) -> None:
        """Raise `UsageError` naming file and record where lengths or ids are not what they must be.

        most_bytes: read the beginnings of the shards, no more than that in all; None: everything.
        """
        share = None if most_bytes is None else max(1 << 16, most_bytes // len(self.shards))
        shards = self.shards if most_bytes is None else self.shards[: most_bytes // (share or 1)]
        for shard in shards:
            path = self.path(shard)
            if self.format != FORMAT:
                mead_records.check(path, self.lengths, self.vocab_size, share)
                continue
            assert self.vocab_size is not None
            size = self.layout.record_bytes
            rows = shard.samples if share is None else min(shard.samples, max(1, share // size))
            with filesystem.naming(path), filesystem.open_read(path) as stream:
                data = np.frombuffer(stream.read(rows * size), np.uint8)
            records = data[: len(data) // size * size].reshape(-1, size)
            for name, ids in self.layout.token_ids(records, self.lengths).items():
                mead_records.check_ids(path, name, ids, self.vocab_size)

    def verify(self) -> None:
        """Read and check every shard; `TlmError` naming the first damaged shard and record."""
        for shard in self.shards:
            if self.format != FORMAT:
                mead_records.verify(self.path(shard))
            elif file_sha256(self.path(shard)) != shard.sha256:
                raise TlmError(f"{self.path(shard)}: is damaged ({self._damage(shard)}): {RESTORE}")
        self.check_records()

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
    """Open a dataset directory, local or gs://.

    The shards' presence and sizes are checked, their content is not (`Dataset.verify`). Raises
    `UsageError` when it is no dataset, is unfinished, or a shard is missing or cut off.
    """
    metadata = read_metadata(directory)
    if metadata is None:
        raise UsageError(_no_dataset(directory))
    samples, kind = metadata["num_samples"], metadata.get("format", 0)
    where = f"{directory.rstrip('/')}/{METADATA}"
    if isinstance(samples, dict):
        raise UsageError(
            f"{where}: num_samples is a map of lengths (MEAD's curriculum): that is not supported, "
            "preprocess one length"
        )
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        raise UsageError(f"{where}: num_samples is {samples!r}: the dataset holds no examples")
    if kind == 0:
        return _open_mead(directory, samples, metadata)
    if kind != FORMAT:
        raise UsageError(
            f"{where}: format {kind!r} is not known here: it was written by another version"
        )
    shards = tuple(
        Shard(s["name"], s["samples"], s["bytes"], s["sha256"], tuple(s["sums"]))
        for s in metadata["shards"]
    )
    seq_length, tokenizer, piece = (
        metadata["nctx"],
        metadata["tokenizer"],
        metadata["piece_samples"],
    )
    lengths = {"x": seq_length} | ({"y": metadata["nctx_y"]} if "nctx_y" in metadata else {})
    layout = token_layout(seq_length, tokenizer["vocab_size"], lengths.get("y"))
    whole = (
        metadata["record_bytes"] == layout.record_bytes
        and sum(shard.samples for shard in shards) == samples
    )
    if not whole or any(
        s.samples * layout.record_bytes != s.bytes or -(-s.samples // piece) != len(s.sums)
        for s in shards
    ):
        raise UsageError(f"{where}: its table of shards does not add up: {RESTORE}")
    dataset = Dataset(
        directory,
        samples,
        seq_length,
        FORMAT,
        shards,
        tokenizer,
        metadata,
        lengths,
        tokenizer["vocab_size"],
    )
    _check_sizes(dataset)
    return dataset


def _no_dataset(directory: str) -> str:
    if not filesystem.is_directory(directory):
        return f"{directory}: no such dataset directory"
    names = filesystem.list_names(directory)
    if WORK in names:
        return (
            f"{directory}: its preprocessing has not finished: run the same preprocess command "
            "again to continue it"
        )
    if parts := [f"{directory.rstrip('/')}/{name}" for name in ("train", "valid") if name in names]:
        return f"{directory}: is no dataset (no {METADATA}): give {' or '.join(parts)}"
    return f"{directory}: is no dataset (no {METADATA}): make one with python -m tpu_tlm.preprocess"


def _check_sizes(dataset: Dataset) -> None:
    sizes = filesystem.file_sizes(dataset.directory)
    for shard in dataset.shards:
        path = dataset.path(shard)
        if shard.name not in sizes:
            raise UsageError(f"{path}: is missing: {RESTORE}")
        filesystem.check_inside(dataset.directory, shard.name)
        if sizes[shard.name] != shard.bytes:
            raise UsageError(
                f"{path}: has {sizes[shard.name] or 0:,} bytes, not {shard.bytes:,}: {RESTORE}"
            )


def _open_mead(directory: str, samples: int, metadata: dict[str, Any]) -> Dataset:
    base = directory.rstrip("/")
    names = mead_records.shard_names(directory)
    if not names:
        raise UsageError(
            f"{directory}: has {METADATA} but no .tfrecord files (MEAD's JSON and TSV records are "
            "not read)"
        )
    for name in names:
        filesystem.check_inside(directory, name)
    shards = tuple(
        Shard(name, mead_records.count(f"{base}/{name}"), filesystem.file_size(f"{base}/{name}"))
        for name in names
    )
    found = sum(shard.samples for shard in shards)
    if found != samples:
        raise UsageError(
            f"{base}/{METADATA}: says {samples:,} samples, its .tfrecord files hold {found:,}: "
            "correct it or preprocess again"
        )
    lengths = mead_records.first_lengths(
        next(f"{base}/{shard.name}" for shard in shards if shard.samples)
    )
    return Dataset(directory, samples, lengths["x"], 0, shards, None, metadata, lengths)


def check_same_tokenizer(a: dict[str, Any] | None, b: dict[str, Any] | None, what: str) -> None:
    """Refuse two tokenizer descriptions that differ; None (MEAD's records have none) fits any.

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
