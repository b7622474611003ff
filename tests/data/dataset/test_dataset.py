"""Opening and verifying dataset directories."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tpu_tlm.data.dataset.dataset import check_same_tokenizer, open_dataset
from tpu_tlm.data.dataset.shards import is_shard_name, shard_name, shard_sizes
from tpu_tlm.errors import TlmError, UsageError


def test_opens_what_was_written(make_dataset) -> None:
    dataset = make_dataset([5, 5, 3])
    assert (dataset.num_samples, dataset.seq_length, dataset.format) == (13, 8, 1)
    assert [shard.samples for shard in dataset.shards] == [5, 5, 3]
    assert dataset.shards[2].name == "tlm-00002-of-00003.tfrecord"
    dataset.verify()
    plain = yaml.safe_load((Path(dataset.directory) / "md.yml").read_text())
    assert plain["num_samples"] == 13  # all that MEAD reads


@pytest.mark.parametrize("change", ["cut", "missing", "grown"])
def test_a_wrong_size_is_named_at_opening(make_dataset, change: str) -> None:
    dataset = make_dataset([5, 5])
    path = Path(dataset.directory) / dataset.shards[1].name
    data = path.read_bytes()
    path.unlink() if change == "missing" else path.write_bytes(
        data[:-1] if change == "cut" else data + b"x"
    )
    with pytest.raises(UsageError, match="tlm-00001-of-00002.tfrecord"):
        open_dataset(dataset.directory)


def test_verify_names_shard_and_record(make_dataset) -> None:
    dataset = make_dataset([5, 5])
    path = Path(dataset.directory) / dataset.shards[1].name
    data = bytearray(path.read_bytes())
    data[2 * dataset.layout.record_bytes + 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        TlmError, match=r"tlm-00001-of-00002.tfrecord: is damaged \(first at record 2\)"
    ):
        open_dataset(dataset.directory).verify()
    path.write_bytes(
        Path(dataset.path(dataset.shards[0])).read_bytes()
    )  # sound records, but another shard's
    with pytest.raises(TlmError, match="not the file that was written"):
        open_dataset(dataset.directory).verify()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is no dataset"),
        ("num_samples: {128: 5, 256: 3}", "curriculum"),
        ("num_samples: 0", "no examples"),
        ("num_samples: [", "is not YAML"),
        ("steps: 3", "has no num_samples"),
        ("num_samples: 5\nformat: 7", "format 7 is not known"),
        ("num_samples: 5\nformat: 1\nnctx: 8", "damaged"),
        (
            "{num_samples: 5, format: 1, nctx: 8, piece_samples: 9, record_bytes: 61, "
            "tokenizer: {kind: bpe, vocab_size: 9}, shards: [{name: a, samples: 4, bytes: 240, "
            f"sha256: '{'0' * 64}', sums: ['{'0' * 16}']}}]}}",
            "does not add up",
        ),
        ("num_samples: 5", "no .tfrecord files"),
    ],
)
def test_what_is_no_dataset_is_refused(tmp_path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "md.yml").write_text(text)
    with pytest.raises(UsageError, match=message):
        open_dataset(str(tmp_path))


def test_unfinished_and_parent_directories_say_what_to_do(tmp_path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(UsageError, match="give .*/train"):
        open_dataset(str(tmp_path))
    (tmp_path / ".preprocess").mkdir()
    with pytest.raises(UsageError, match="run the same preprocess command again"):
        open_dataset(str(tmp_path))
    with pytest.raises(UsageError, match="no such dataset directory"):
        open_dataset(str(tmp_path / "nowhere"))


def test_mead_directories(make_mead_dataset) -> None:
    dataset = make_mead_dataset([2, 0, 1, 1, 1, 1, 1, 1, 1, 1, 4])
    assert (dataset.format, dataset.num_samples, dataset.seq_length, dataset.tokenizer) == (
        0,
        14,
        8,
        None,
    )
    assert dataset.lengths == {"x": 8, "y": 8}
    assert (
        dataset.shards[2].name == "rec-2.tfrecord" and dataset.shards[10].samples == 4
    )  # 10 after 9
    dataset.verify()
    path = Path(dataset.directory) / "rec-10.tfrecord"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(TlmError, match="rec-10.tfrecord: record [12] is damaged"):
        open_dataset(dataset.directory).verify()
    path.write_bytes(data[:-3])
    with pytest.raises(TlmError, match="rec-10.tfrecord: record 3 is cut off"):
        open_dataset(dataset.directory)
    path.unlink()
    with pytest.raises(UsageError, match="says 14 samples, its .tfrecord files hold 10"):
        open_dataset(dataset.directory)


def test_shard_sizes() -> None:
    for samples, size, limit in [
        (1, 10, 5),
        (100, 10, 100),
        (101, 10, 100),
        (7, 3, 9),
        (1000, 7, 700),
        (5, 10, 1e9),
        (9, 10, 20),
    ]:
        sizes = shard_sizes(samples, size, limit)
        assert sum(sizes) == samples and len(set(sizes[:-1])) <= 1 and 0 < sizes[-1] <= sizes[0]
        assert sizes[0] * size <= limit or sizes[0] == 1
    assert is_shard_name(shard_name(123456, 200000)) and not is_shard_name(
        "mine-00000-of-00001.tfrecord"
    )


def test_tokenizers_must_be_the_same() -> None:
    a = {"kind": "bpe", "cased": True, "files": {"vocab": "1"}}
    check_same_tokenizer(a, dict(a), "x")
    check_same_tokenizer(None, a, "x")
    check_same_tokenizer(a, None, "x")
    with pytest.raises(
        UsageError, match="D and E have different tokenizers .cased: True against False"
    ):
        check_same_tokenizer(a, {**a, "cased": False}, "D and E")
    with pytest.raises(UsageError, match="other files"):
        check_same_tokenizer(a, {**a, "files": {"vocab": "2"}}, "D and E")
