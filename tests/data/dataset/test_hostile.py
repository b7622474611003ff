"""Damaged and hostile dataset directories: one line that names file, key or record."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import yaml

from tests.paths import ROOT
from tests.toy import toy_dataset
from tpu_tlm.config import TokenizerConfig
from tpu_tlm.data.dataset.dataset import Dataset, open_dataset
from tpu_tlm.data.dataset.metadata import write_metadata
from tpu_tlm.data.dataset.records import token_layout, token_payload
from tpu_tlm.data.dataset.shards import write_shard
from tpu_tlm.data.dataset.stream import Stream, failure, is_reading_error
from tpu_tlm.data.tokenizers.factory import make_tokenizer
from tpu_tlm.errors import TlmError, UsageError

FIELD = ROOT.parent / "shared" / "field"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_dataset(tmp_path_factory.mktemp("toy") / "data")


@pytest.fixture
def data(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "data"))


def _rewrite(directory: Path, change: Any) -> None:
    """Change `md.yml` as the first edition wrote it: without a checksum of its own."""
    metadata = yaml.safe_load((directory / "md.yml").read_text())
    change(metadata)
    (directory / "md.yml").write_text(yaml.safe_dump(metadata, sort_keys=False))


def _opened(directory: Path) -> Dataset:
    dataset = open_dataset(str(directory))
    return dataset.for_tokenizer(dataset.load_tokenizer())


def test_the_first_editions_metadata_is_taken(data: Path) -> None:
    before = _opened(data)
    _rewrite(data, lambda metadata: None)
    assert _opened(data).shards == before.shards


CHANGES: dict[str, tuple[Any, str]] = {
    "negative length": (lambda m: m.update(nctx=-32), "nctx is -32"),
    "length as text": (lambda m: m.update(nctx="32"), "nctx is '32'"),
    "length of an exbibyte": (lambda m: m.update(nctx=1 << 60), "nctx is"),
    "huge pieces": (lambda m: m.update(piece_samples=1 << 62), "piece_samples is"),
    "pieces of a tebibyte": (lambda m: m.update(piece_samples=1 << 29), "piece_samples is"),
    "boolean count": (lambda m: m.update(num_samples=True), "num_samples is True"),
    "prefix as a list": (lambda m: m.update(prefix=["a"]), "prefix is"),
    "date": (lambda m: m.update(suffix=__import__("datetime").date(2020, 1, 1)), "suffix is"),
    "unknown end of line": (lambda m: m.update(tok_on_eol="<EOR>"), "tok_on_eol is '<EOR>'"),
    "no tokenizer": (lambda m: m.pop("tokenizer"), "tokenizer is missing"),
    "tokenizer as a list": (lambda m: m.update(tokenizer=[1]), "tokenizer is"),
    "huge vocabulary": (lambda m: m["tokenizer"].update(vocab_size=1 << 40), "vocab_size is"),
    "special id outside": (lambda m: m["tokenizer"]["special"].update(mask=99), "special.mask is"),
    "no shards": (lambda m: m.update(shards=[]), "shards is"),
    "shard as text": (lambda m: m["shards"].append("x"), r"shards\[3\]"),
    "infinite shard": (lambda m: m["shards"][1].update(bytes=float("inf")), r"shards\[1\].bytes"),
    "short checksum": (lambda m: m["shards"][1].update(sha256="ab"), r"shards\[1\].sha256"),
    "sums as text": (lambda m: m["shards"][1].update(sums="ab"), r"shards\[1\].sums"),
    "same shard twice": (
        lambda m: m["shards"][1].update(name=m["shards"][0]["name"]),
        r"shards\[1\].name",
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_wrong_value_is_named(data: Path, kind: str) -> None:
    change, words = CHANGES[kind]
    _rewrite(data, change)
    with pytest.raises(UsageError, match=rf"md.yml: is damaged: .*{words}"):
        _opened(data)


@pytest.mark.parametrize(
    "name", ["../x.tfrecord", "/etc/passwd", "a/b", "", "..", "a\x00b", "a\nb", 7, None, "x" * 300]
)
def test_a_shard_is_a_plain_name(data: Path, name: object) -> None:
    _rewrite(data, lambda metadata: metadata["shards"][1].update(name=name))
    with pytest.raises(UsageError, match="md.yml"):
        open_dataset(str(data))


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "device"])
def test_a_shard_is_a_regular_file_inside(data: Path, tmp_path: Path, kind: str) -> None:
    shard = data / open_dataset(str(data)).shards[1].name
    if kind == "link":
        shutil.move(shard, tmp_path / "elsewhere")
        shard.symlink_to(tmp_path / "elsewhere")
    else:
        shard.unlink()
        {
            "fifo": lambda: os.mkfifo(shard),
            "directory": shard.mkdir,
            "device": lambda: shard.symlink_to("/dev/zero"),
        }[kind]()
    with pytest.raises(UsageError, match=shard.name):
        open_dataset(str(data))


def test_yaml_that_grows_or_nests(data: Path) -> None:
    bomb = "".join(f"x{i}: &a{i} [{f'*a{i - 1}, ' * 9 if i else 'x'}]\n" for i in range(9))
    for text, words in (
        (bomb + "num_samples: 5\n", "aliases"),
        ("num_samples: " + "[" * 5000, "is not YAML"),
        ("num_samples: !!python/object/apply:os.getcwd []", "is not YAML"),
    ):
        (data / "md.yml").write_text(text)
        with pytest.raises(UsageError, match=f"md.yml: .*{words}"):
            open_dataset(str(data))
    (data / "md.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="md.yml"):
        open_dataset(str(data))


def test_every_changed_byte_of_the_metadata_is_named(data: Path) -> None:
    path = data / "md.yml"
    good = path.read_bytes()
    for place in range(len(good)):
        bit = 1 << place % 8
        path.write_bytes(good[:place] + bytes([good[place] ^ bit]) + good[place + 1 :])
        with pytest.raises(UsageError, match="md.yml: "):
            open_dataset(str(data))


def _ids(directory: Path, change: Any, vocab_size: int, shards: int = 3) -> None:
    """Write a dataset of format 1 whose records are sound but hold other ids."""
    tokenizer = open_dataset(str(directory)).load_tokenizer()
    description = {**tokenizer.description(), "vocab_size": vocab_size, "special": {}}
    ids = np.full((3000, 16), 7, np.int64)
    change(ids)
    layout, written = token_layout(16, vocab_size), []
    payload = token_payload(ids, ids > 0, vocab_size)
    for index in range(shards):
        part = payload[index * 1000 : (index + 1) * 1000]
        written.append(write_shard(str(directory), f"s{index}.tfrecord", layout, [part]))
    write_metadata(str(directory), {"nctx": 16, "tokenizer": description}, layout, written)


@pytest.mark.parametrize(("vocab_size", "bad"), [(45, 45), (45, 65535), (70_000, 1 << 31)])
def test_ids_outside_of_the_vocabulary(
    data: Path, vocab_size: int, bad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(ids: np.ndarray) -> None:
        ids[1003, 4] = bad

    _ids(data, change, vocab_size)
    dataset = open_dataset(str(data))
    # In the stream, without having looked before.
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        for _ in Stream(dataset, seed=0, batch_size=8).batches(0).take(400):
            pass
    assert is_reading_error(dataset, caught.value)
    told = str(failure(dataset, caught.value))
    assert f"s1.tfrecord: record 3 has the id {bad}" in told and "'x'" in told
    with pytest.raises(UsageError, match=f"s1.tfrecord: record 3 has the id {bad}"):
        dataset.check_records(1 << 20)


def _mead(directory: Path, records: list[dict[str, list[int]]]) -> Dataset:
    directory.mkdir()
    with tf.io.TFRecordWriter(str(directory / "train-1.tfrecord")) as writer:
        for record in records:
            feature = {
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
                for name, values in record.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    (directory / "md.yml").write_text(f"num_samples: {len(records)}\n")
    return open_dataset(str(directory))


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"x": [1] * 5, "y": [1] * 8}, "record 1 has 5 ids in 'x', the first record has 8"),
        ({"x": [1] * 8}, "record 1 has 0 ids in 'y'"),
        ({"x": [1] * 8, "y": [1] * 7 + [45]}, "record 1 has the id 45 in 'y'"),
        ({"x": [1] * 7 + [-1], "y": [1] * 8}, "record 1 has the id -1 in 'x'"),
        ({"x": [1] * 7 + [1 << 40], "y": [1] * 8}, f"record 1 has the id {1 << 40} in 'x'"),
    ],
)
def test_meads_records_agree_with_the_first(
    good: Path, tmp_path: Path, second: dict[str, list[int]], words: str
) -> None:
    first = {"x": [1] * 8, "y": [1] * 8}
    dataset = _mead(tmp_path / "mead", [first, second, first])
    tokenizer = open_dataset(str(good)).load_tokenizer()
    assert len(tokenizer.tokens) == 45
    with pytest.raises(UsageError, match=words) as caught:
        dataset.for_tokenizer(tokenizer)
    assert "train-1.tfrecord" in str(caught.value)
    unseen = Dataset(**{**vars(dataset), "vocab_size": 45})
    with pytest.raises(tf.errors.OpError) as error:
        for _ in Stream(unseen, seed=0, batch_size=3).batches(0).take(1):
            pass
    assert is_reading_error(unseen, error.value)
    assert words in str(failure(unseen, error.value))


def test_other_types_in_meads_records(tmp_path: Path) -> None:
    directory = tmp_path / "mead"
    directory.mkdir()
    with tf.io.TFRecordWriter(str(directory / "a.tfrecord")) as writer:
        feature = {"x": tf.train.Feature(float_list=tf.train.FloatList(value=[1.0]))}
        example = tf.train.Example(features=tf.train.Features(feature=feature))
        writer.write(example.SerializeToString())
    (directory / "md.yml").write_text("num_samples: 1\n")
    with pytest.raises(UsageError, match="a.tfrecord: its records have no int64 feature 'x'"):
        open_dataset(str(directory))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rel-md-bomb", "md.yml: uses YAML aliases"),
        ("rel-md-eol", "md.yml: is damaged: tok_on_eol"),
        ("rel-md-nctx", "md.yml: is damaged: nctx"),
        ("rel-md-piece", "md.yml: is damaged: piece_samples"),
        ("rel-md-prefix", "md.yml: is damaged: prefix"),
        ("data-mead-variable-length", "rank_0_0.tfrecord: record 1 has 40 ids"),
    ],
)
def test_inputs_from_the_field(name: str, words: str) -> None:
    directory = FIELD / name
    if not directory.is_dir():
        pytest.skip(f"{directory} is not here")
    with pytest.raises(TlmError, match=words):
        dataset = open_dataset(str(directory))
        vocab = directory / "vocab.txt"
        dataset.for_tokenizer(
            make_tokenizer(TokenizerConfig(subword_type="wordpiece", vocab=str(vocab)))
            if vocab.exists()
            else dataset.load_tokenizer()
        )
