"""Local and remote bytes; TensorFlow's in-memory file system serves as an object store."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.paths import DATA_FILES, ROOT
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


ERRORS = [
    (errno.ENOSPC, 1, "No space left"),
    (errno.EDQUOT, 1, "quota"),
    (errno.EROFS, 2, "Read-only"),
    (errno.EMFILE, 1, "ulimit -n"),
    (errno.EACCES, 2, "Permission denied"),
    (errno.EIO, 1, "Input/output error"),
    (errno.EFBIG, 1, "too large"),
]


@pytest.mark.parametrize(("number", "code", "words"), ERRORS)
@pytest.mark.parametrize("step", ["os.fsync", "os.replace", "builtins.open"])
def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int, code: int, words: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(step, fail)
        with pytest.raises(TlmError, match=words) as error:
            filesystem.write_bytes(str(path), b"new")
    assert str(error.value).startswith(f"{path}: ") and error.value.exit_code == code
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), filesystem.replacing(str(tmp_path / "a")) as stream:
        stream.write(b"x" * 100_000)
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """A limit on the size of files serves as a full disk."""
    code = (
        "import resource, signal, sys; from tpu_tlm import filesystem, errors;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "sys.exit(errors.run_command(lambda _: filesystem.write_bytes(sys.argv[1], b'x' * 5000)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 1 and ended.stderr.startswith(f"error: {tmp_path}/a: File too large")
    assert os.listdir(tmp_path) == []


def test_files_and_directories_in_each_others_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dir").mkdir()
    for call, path, words in (
        (filesystem.read_bytes, "dir", "Is a directory"),
        (filesystem.open_read, "dir", "Is a directory"),
        (filesystem.read_bytes, "file/x", "Not a directory"),
        (filesystem.list_names, "file", "Not a directory"),
        (filesystem.make_directory, "file", "File exists"),
        (filesystem.make_directory, "file/x", "Not a directory"),
        (filesystem.remove, "dir", "Is a directory"),
        (lambda p: filesystem.write_bytes(p, b""), "dir", "Is a directory"),
        (lambda p: filesystem.write_bytes(p, b""), "none/x", "No such file"),
    ):
        with pytest.raises(UsageError, match=f"{path}: {words}"):
            call(str(tmp_path / path))
    assert sorted(os.listdir(tmp_path)) == ["dir", "file"]


@pytest.mark.parametrize(
    ("name", "words"), [("a\x00b", "NUL"), ("\ud800", "encoded"), ("x" * 300, "too long")]
)
def test_names_that_no_file_can_have(tmp_path: Path, name: str, words: str) -> None:
    for call in (
        filesystem.read_bytes,
        filesystem.file_size,
        lambda p: filesystem.write_bytes(p, b""),
    ):
        with pytest.raises(UsageError, match=words):
            call(f"{tmp_path}/{name}")


def test_trees_are_copied(place: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "deeper").mkdir(parents=True)
    for name in ("a", "deep/b", "deep/deeper/c"):
        (source / name).write_bytes(name.encode())
    heard: list[tuple[int, int]] = []
    names = filesystem.upload(str(source), f"{place}/copy", lambda *done: heard.append(done))
    assert names == ["a", "deep/b", "deep/deeper/c"] and heard[-1] == (20, 20)
    assert filesystem.download(f"{place}/copy", str(tmp_path / "back")) == names
    with filesystem.local_copy(f"{place}/copy") as local:
        for directory in (tmp_path / "back", Path(local)):
            assert [(directory / name).read_bytes() for name in names] == [
                b"a",
                b"deep/b",
                b"deep/deeper/c",
            ]


def test_a_directory_is_removed_by_two_at_a_time(tmp_path: Path) -> None:
    """And while a third puts files into it."""
    place = tmp_path / "work"
    for _ in range(5):
        for number in range(300):
            (place / str(number % 7)).mkdir(parents=True, exist_ok=True)
            (place / str(number % 7) / str(number)).write_text("")
        with ThreadPoolExecutor(3) as threads:
            removed = [threads.submit(filesystem.remove_tree, str(place)) for _ in range(2)]
            for number in range(20):
                with contextlib.suppress(FileNotFoundError):
                    (place / f"lock-{number}").write_text("")
            for one in removed:
                one.result()
        assert not place.exists()


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
