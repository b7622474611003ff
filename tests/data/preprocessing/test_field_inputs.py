"""Inputs that people met in public bug reports, each with its right value."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.command_modules import preprocess
from tests.data.preprocessing.test_preprocess import examples
from tests.paths import DATA_FILES, ROOT
from tpu_tlm.data.dataset.dataset import Dataset, open_dataset
from tpu_tlm.errors import TlmError, UsageError

FIELD = DATA_FILES / "field"
TEXT = FIELD / "text.txt"
WORDPIECE = ["--subword_type", "wordpiece", "--vocab", str(FIELD / "vocab.txt")]
UNCASED = [*WORDPIECE, "--cased", "false"]


def run(source: Path | list[Path], output: Path, *options: Any) -> Dataset:
    """The dataset that the command makes of some files, in one process, in corpus order."""
    sources = source if isinstance(source, list) else [source]
    given = ["--seq_length", "64", "--shuffle", "false", "--workers", "1", *map(str, options)]
    preprocess.main(["--input_files", *map(str, sources), "--output", str(output), *given])
    return open_dataset(str(output))


@pytest.mark.parametrize("marked", ["codes", "vocab"])
def test_a_byte_order_mark_is_no_part_of_a_token(tmp_path: Path, marked: str) -> None:
    files = {name: FIELD / "bom-codes" / name for name in ("codes", "vocab")}
    plain = ["--codes", files["codes"], "--vocab", files["vocab"]]
    (tmp_path / marked).write_bytes(b"\xef\xbb\xbf" + files[marked].read_bytes())
    files[marked] = tmp_path / marked
    given = ["--codes", files["codes"], "--vocab", files["vocab"], "--seq_length", "256"]
    dataset = run(TEXT, tmp_path / "out", *given)
    assert dataset.metadata["tokens"] == 131
    assert dataset.tokenizer == run(TEXT, tmp_path / "plain", *plain).tokenizer


def test_a_marked_vocab_txt_is_read(tmp_path: Path) -> None:
    marked = tmp_path / "vocab.txt"
    marked.write_bytes(b"\xef\xbb\xbf" + (FIELD / "vocab.txt").read_bytes())
    dataset = run(TEXT, tmp_path / "out", "--vocab", marked, "--cased", "false")
    assert dataset.metadata["unknown_tokens"] == 0


def test_unknown_tokens_are_counted_and_many_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cased = run(TEXT, tmp_path / "cased", *WORDPIECE)
    said = capsys.readouterr()
    assert (cased.metadata["unknown_tokens"], cased.metadata["tokens"]) == (14, 67)
    assert "14 tokens (20.90%)" in said.out
    assert "warning:" in said.err and "--cased false" in said.err
    uncased = run(TEXT, tmp_path / "uncased", *UNCASED)
    assert (uncased.metadata["unknown_tokens"], uncased.metadata["tokens"]) == (0, 68)
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer_info.json", '{"kind": "wordpiece", "cased": false}'),
        ("tokenizer.json", '{"kind": "wordpiece", "cased": false}'),
        ("tokenizer_config.json", '{"do_lower_case": true}'),
        ("tokenizer.json", '{"normalizer": {"type": "BertNormalizer", "lowercase": true}}'),
    ],
)
def test_files_beside_the_vocabulary_decide_its_case(tmp_path: Path, name: str, text: str) -> None:
    vocab = tmp_path / "vocab.txt"
    shutil.copy(FIELD / "vocab.txt", vocab)
    (tmp_path / name).write_text(text)
    dataset = run(TEXT, tmp_path / "out", "--vocab", vocab)
    assert dataset.metadata["unknown_tokens"] == 0 and dataset.tokenizer["cased"] is False
    with pytest.raises(UsageError, match=f"--cased true.*{name}"):
        run(TEXT, tmp_path / "other", "--vocab", vocab, "--cased", "true")


def test_options_of_another_kind_of_tokenizer_are_refused(tmp_path: Path) -> None:
    for option, value in (("--codes", FIELD / "bom-codes" / "codes"), ("--extra_tokens", "<X>")):
        with pytest.raises(UsageError, match=option):
            run(TEXT, tmp_path / "out", *UNCASED, option, value)


@pytest.mark.parametrize(
    ("name", "what"), [("deep.jsonl", "line that is not JSON"), ("arr.json", "is an array")]
)
def test_json_that_is_no_line_of_an_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, what: str
) -> None:
    source = FIELD / "deep-json" / name
    if name == "deep.jsonl":
        assert run(source, tmp_path / "out", *UNCASED).metadata["documents"] == 1
        assert f"{what} (skipped): 1 ({source}:2)" in capsys.readouterr().out
    with pytest.raises(UsageError, match=what):
        run(source, tmp_path / "strict", *UNCASED, "--strict")


def test_lines_of_white_space_of_any_script_end_documents(tmp_path: Path) -> None:
    """The reading loop of BERT's create_pretraining_data.py gives 5 documents of 6 lines."""
    source = FIELD / "nbsp-blank-lines" / "nbsp.txt"
    dataset = run(source, tmp_path / "out", *UNCASED, "--packing", "documents")
    assert (dataset.metadata["documents"], dataset.metadata["lines"]) == (5, 6)
    ids, _ = examples(dataset)
    sep = dataset.load_tokenizer().sep_id
    assert (ids == sep).sum() == 6 and not (ids[:, 0] == sep).any()


@pytest.mark.parametrize(
    ("line", "documents"),
    [
        *[(line, 2) for line in ("\ufeff", "\u2060 ", "\u00a0\u200b", "\u200d", "\u00ad")],
        *[(line, 1) for line in ("\u200b", "\u200b\u200b")],
    ],
)
def test_lines_that_show_nothing_give_no_token(tmp_path: Path, line: str, documents: int) -> None:
    (tmp_path / "a.txt").write_text(f"the toll is high.\n{line}\nlast one here.\n{line}")
    dataset = run(tmp_path / "a.txt", tmp_path / "out", *UNCASED)
    assert (dataset.metadata["documents"], dataset.metadata["lines"]) == (documents, 2)
    (tmp_path / "b.txt").write_text("the toll is high.\n\nlast one here.\n")
    plain = run(tmp_path / "b.txt", tmp_path / "plain", *UNCASED)
    assert dataset.metadata["tokens"] == plain.metadata["tokens"]


@pytest.mark.parametrize("fraction", ["0.02", "0.999"])
def test_one_document_cannot_be_divided(tmp_path: Path, fraction: str) -> None:
    source = FIELD / "one-document" / "one.txt"
    with pytest.raises(UsageError, match="1 document .*--document"):
        run(source, tmp_path / "out", *UNCASED, "--valid_fraction", fraction)
    with pytest.raises(UsageError, match="none was left for the train split"):
        run(source, tmp_path / "l", *UNCASED, "--valid_fraction", "0.999", "--document", "line")


@pytest.mark.parametrize("name", ["first.tsv", "comment.tsv"])
def test_a_table_is_known_by_most_of_its_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    source = FIELD / "pairs-first-line" / name
    dataset = run(source, tmp_path / "out", *UNCASED, "--pairs", "ntp")
    assert dataset.num_samples == 3
    assert f"line with no tab (left out): 1 ({source}:1)" in capsys.readouterr().out


def test_the_pairs_format_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = FIELD / "pairs-first-line" / "first.tsv"
    given = [*UNCASED, "--pairs", "ntp", "--pairs_format", "turns"]
    assert run(source, tmp_path / "out", *given).num_samples == 3
    assert "tab in a turn of a conversation (read as white space): 3" in capsys.readouterr().out


def test_lone_carriage_returns_end_lines(tmp_path: Path) -> None:
    source = FIELD / "pairs-first-line" / "cr.tsv"
    for kind in ("tsv", "ntp"):
        assert run(source, tmp_path / kind, *UNCASED, "--pairs", kind).num_samples == 2


CONTAINERS = {
    "a.zip": "zip archive",
    "a.tar": "tar archive",
    "a.tar.gz": "tar archive",
    "b.tgz": "tar archive",
    "a.parquet": "Parquet",
    "a.arrow": "Arrow",
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_are_refused_by_their_bytes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # as without pyarrow
    source = FIELD / "unread-containers" / name
    with pytest.raises(UsageError, match=f"{name}: .*{CONTAINERS[name]}"):
        run(source, tmp_path / "alone", *UNCASED)
    renamed = tmp_path / "innocent.txt"
    shutil.copy(source, renamed)
    dataset = run([TEXT, renamed], tmp_path / "beside", *UNCASED)
    assert dataset.metadata["tokens"] == 68
    assert f"not text (left out): 1 ({renamed}: " in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"innocent\.txt"):
        run([TEXT, renamed], tmp_path / "strict", *UNCASED, "--strict")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_tables_are_read_with_pyarrow(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pyarrow")
    dataset = run(FIELD / "unread-containers" / name, tmp_path / "out", *UNCASED)
    assert dataset.metadata["unknown_tokens"] == 0 and dataset.metadata["documents"] > 0


@pytest.mark.parametrize("name", ["a.txt.bz2", "a.txt.xz", "plain_gz.txt"])
def test_compressed_text_is_read_by_its_bytes(tmp_path: Path, name: str) -> None:
    dataset = run(FIELD / "unread-containers" / name, tmp_path / "out", *UNCASED)
    assert dataset.metadata["unknown_tokens"] == 0
    np.testing.assert_array_equal(
        examples(dataset)[0], examples(run(TEXT, tmp_path / "plain", *UNCASED))[0]
    )


def test_a_loop_of_links_is_read_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "c"
    (corpus / "sub").mkdir(parents=True)
    shutil.copy(TEXT, corpus / "text.txt")
    (corpus / "loop").symlink_to(".")
    (corpus / "sub" / "up").symlink_to("..")
    for number, pattern in enumerate(("**/*.txt", "**/*")):
        run(corpus, tmp_path / f"out{number}", *UNCASED, "--input_pattern", pattern)
        assert "read       1 files" in capsys.readouterr().out
    again = [corpus / "text.txt", corpus / "sub" / "up" / "text.txt", corpus / "loop" / "text.txt"]
    run(again, tmp_path / "again", *UNCASED)
    printed = capsys.readouterr().out
    assert "read       1 files" in printed and "2 more paths lead to files" in printed
    (corpus / "hard.txt").hardlink_to(corpus / "text.txt")
    run(corpus, tmp_path / "hard", *UNCASED)
    assert "read       1 files" in capsys.readouterr().out


def test_what_a_pattern_leaves_out_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "c"
    (corpus / "deeper").mkdir(parents=True)
    shutil.copy(TEXT, corpus)
    for name in ("a.md", "b.md", "c.jsonl"):
        (corpus / name).write_text("x")
    run(corpus, tmp_path / "out", *UNCASED)
    assert "2 .md, 1 .jsonl, 1 sub-directories" in capsys.readouterr().out


def test_pipes_are_refused_as_pipes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for given in (tmp_path / "pipe.txt", Path("-"), Path("/dev/null")):
        with pytest.raises(UsageError, match="write it to a file"):
            run(given, tmp_path / "out", *UNCASED)


def test_names_in_a_directory_that_lead_to_no_file_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "c"
    corpus.mkdir()
    (corpus / "dead.txt").symlink_to("nowhere")
    os.mkfifo(corpus / "pipe.txt")
    with pytest.raises(UsageError, match=r"dead\.txt: the link leads nowhere"):
        run(corpus, tmp_path / "none", *UNCASED)
    shutil.copy(TEXT, corpus / "text.txt")
    run(corpus, tmp_path / "out", *UNCASED)
    printed = capsys.readouterr().out
    assert "read       1 files" in printed and "name that leads to no file (left out): 2" in printed
    assert "dead.txt: the link leads nowhere" in printed and "pipe.txt: is a pipe" in printed
    with pytest.raises(UsageError, match=r"dead\.txt"):
        run(corpus, tmp_path / "strict", *UNCASED, "--strict")


@pytest.mark.parametrize("text", ['[\n{"text": "a"}\n]\n', '{\n "text": "a"\n}\n'])
def test_json_over_several_lines_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UsageError, match="over several lines"):
        run(tmp_path / "a.json", tmp_path / "out", *UNCASED, "--strict")


@pytest.mark.parametrize("line_end", [b"\r", b"\r\n"])
def test_vocabularies_with_carriage_returns_are_read(tmp_path: Path, line_end: bytes) -> None:
    for name in ("vocab.txt", "bom-codes/codes", "bom-codes/vocab"):
        data = (FIELD / name).read_bytes().replace(b"\n", line_end)
        (tmp_path / Path(name).name).write_bytes(data)
    bpe = ["--codes", tmp_path / "codes", "--vocab", tmp_path / "vocab"]
    assert run(TEXT, tmp_path / "bpe", *bpe).metadata["tokens"] == 131
    given = ["--subword_type", "wordpiece", "--vocab", tmp_path / "vocab.txt", "--cased", "false"]
    assert run(TEXT, tmp_path / "out", *given).metadata["unknown_tokens"] == 0


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(UsageError, match="--output .*out: is a file"):
        run(TEXT, tmp_path / "out", *UNCASED)


def test_names_that_are_not_utf8_are_printed_escaped(tmp_path: Path) -> None:
    corpus = tmp_path / "c"
    corpus.mkdir()
    (Path(os.fsdecode(os.fsencode(corpus) + b"/caf\xe9.txt"))).write_bytes(b"abc \xff def\n" * 7)
    for encoding in ("utf-8:strict", "ascii:strict"):
        output = tmp_path / encoding.replace(":", "-")
        command = [sys.executable, "-m", "tpu_tlm.preprocess", "--input_files", corpus]
        command += ["--output", output, *UNCASED, "--seq_length", "16", "--workers", "2"]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        assert b"caf\\udce9.txt:1" in done.stdout and b"Traceback" not in done.stderr


@pytest.fixture
def without_rights() -> Any:
    """Become another user for the test, when it is root who runs it."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


def test_permissions_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    for directory in (tmp_path, *list(tmp_path.parents)[:3]):
        directory.chmod(stat.S_IMODE(directory.stat().st_mode) | 0o755)
    tmp_path.chmod(0o777)
    corpus = tmp_path / "c"
    (corpus / "locked").mkdir(parents=True)
    shutil.copy(TEXT, corpus / "text.txt")
    shutil.copy(TEXT, corpus / "locked" / "text.txt")
    (corpus / "locked").chmod(0)
    read_only = tmp_path / "ro"
    read_only.mkdir()
    read_only.chmod(0o555)
    # Python's own modules may lie where the other user may not read: import them now.
    run(TEXT, tmp_path / "before", *UNCASED)
    request.getfixturevalue("without_rights")
    try:
        with pytest.raises(UsageError, match="ro/x.*cannot be written: Permission denied"):
            run(TEXT, read_only / "x", *UNCASED)
        given = [*UNCASED, "--input_pattern", "**/*.txt"]
        run(corpus, tmp_path / "out", *given)
        assert f"{corpus}/locked: cannot be read: Permission denied" in capsys.readouterr().out
        with pytest.raises(UsageError, match="c/locked: cannot be read: Permission denied"):
            run(corpus / "locked", tmp_path / "out2", *UNCASED)
        with pytest.raises(UsageError, match="c/locked: cannot be read: Permission denied"):
            run(corpus, tmp_path / "strict", *given, "--strict")
    finally:
        if os.geteuid() == 65534:
            os.seteuid(0)
        (corpus / "locked").chmod(0o755)


def test_a_full_disk_is_named_and_the_run_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tpu_tlm.data.preprocessing import external_sort

    source = tmp_path / "long.txt"
    source.write_text(TEXT.read_text() * 2000)
    whole = run(source, tmp_path / "whole", *UNCASED)

    class Full:
        def __init__(self, *_: Any) -> None: ...

        def write(self, data: Any) -> None:
            raise OSError(28, os.strerror(28))

        def close(self) -> None: ...

    with monkeypatch.context() as patch:
        patch.setattr(external_sort, "open", Full, raising=False)
        with pytest.raises(TlmError, match=r"part-00000.\.all\.rows: .*No space left on device"):
            run(source, tmp_path / "out", *UNCASED)
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert [s.sha256 for s in run(source, tmp_path / "out", *UNCASED).shards] == [
        s.sha256 for s in whole.shards
    ]


def test_touching_an_input_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "a.txt"
    shutil.copy(TEXT, source)
    run(source, tmp_path / "out", *UNCASED)
    os.utime(source, (1, 1))
    run(source, tmp_path / "out", *UNCASED)
    said = capsys.readouterr()
    assert "nothing to do" in said.out and "written again since" in said.err
    source.write_text(source.read_text().replace("the", "teh"))
    with pytest.raises(UsageError, match=r"input .*a\.txt changed"):
        run(source, tmp_path / "out", *UNCASED)


def test_work_left_by_a_kill_after_the_end_is_removed(tmp_path: Path) -> None:
    run(TEXT, tmp_path / "out", *UNCASED)
    work = tmp_path / "out" / ".preprocess"
    work.mkdir()
    (work / "part-000000.json").write_text("{}")
    run(TEXT, tmp_path / "out", *UNCASED)
    assert not work.exists()


def test_two_preprocesses_in_one_output_are_refused(tmp_path: Path) -> None:
    from tpu_tlm.data.preprocessing.work_dir import OutputLock

    first = OutputLock(str(tmp_path / "out"))
    with pytest.raises(UsageError, match="another preprocess is writing"):
        run(TEXT, tmp_path / "out", *UNCASED, "--work_dir", tmp_path / "other")
    first.close()
    run(TEXT, tmp_path / "out", *UNCASED, "--work_dir", tmp_path / "other")
