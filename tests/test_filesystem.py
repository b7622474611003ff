"""Local and remote bytes; TensorFlow's in-memory file system stands for an object store."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.paths import DATA_FILES
from tpu_tlm import filesystem
from tpu_tlm.config import CorpusConfig, TokenizerConfig
from tpu_tlm.data.corpus.documents import expand_inputs, plan_parts, read_part
from tpu_tlm.data.tokenizers.factory import load_tokenizer, make_tokenizer
from tpu_tlm.errors import TlmError, UsageError

TOKENIZERS = DATA_FILES / "tokenizers"


@pytest.fixture(params=["local", "remote"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path)
    pytest.importorskip("tensorflow")
    base = f"ram://{tmp_path.name}"
    filesystem.make_directory(base)
    return base


def test_bytes_come_back(place: str) -> None:
    path = f"{place}/some/dir/a.bin"
    filesystem.make_directory(f"{place}/some/dir")
    assert not filesystem.exists(path)
    # TensorFlow's in-memory files cannot be written twice.
    for data in (b"two" * 1000,) if filesystem.is_remote(place) else (b"one", b"", b"two" * 1000):
        filesystem.write_bytes(path, data)
        assert filesystem.read_bytes(path) == data and filesystem.file_size(path) == len(data)
    assert filesystem.is_directory(f"{place}/some/dir") and not filesystem.is_directory(path)
    assert filesystem.find(f"{place}/some/dir/*") == [path]
    with filesystem.open_read(path) as stream:
        stream.seek(3)
        assert stream.read(4) == b"twot"


def test_a_missing_file_is_named(place: str) -> None:
    for call in (filesystem.read_bytes, filesystem.file_size):
        with pytest.raises(UsageError, match="none.bin: "):
            call(f"{place}/none.bin")


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TlmError, match="No space left"):
        filesystem.write_bytes(str(path), b"new")
    assert path.read_bytes() == b"old"


def test_a_corpus_is_read_in_parts(place: str) -> None:
    text = "".join(f"line {i}\n" + ("\n" if i % 5 == 0 else "") for i in range(20_000)).encode()
    filesystem.make_directory(f"{place}/corpus")
    filesystem.write_bytes(f"{place}/corpus/a.txt", text)
    filesystem.write_bytes(f"{place}/corpus/b.txt.gz", gzip.compress(text))
    for given, pattern in ((f"{place}/corpus", "*"), (f"{place}/corpus/*", "x")):
        inputs = expand_inputs(CorpusConfig(input_files=[given], input_pattern=pattern))
        assert [file.path for file in inputs] == [
            f"{place}/corpus/a.txt",
            f"{place}/corpus/b.txt.gz",
        ]
        for part_bytes in (10_000, 1 << 20):
            lines = [
                line
                for part in plan_parts(inputs, part_bytes)
                for block in read_part(part)
                for line in block.lines
            ]
            assert lines == 2 * [f"line {i}".encode() for i in range(20_000)]


def test_a_tokenizer_is_saved_and_loaded(place: str) -> None:
    made = make_tokenizer(
        TokenizerConfig("bpe", str(TOKENIZERS / "codes"), str(TOKENIZERS / "vocab"))
    )
    made.save(f"{place}/run/tokenizer")
    assert load_tokenizer(f"{place}/run/tokenizer/").encode("the measures of") == made.encode(
        "the measures of"
    )
