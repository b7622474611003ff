"""`vocab` by several processes: the bytes of one, also when they are killed and run again."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import tpu_tlm as tlm
from tests.bucket import NAME, Bucket
from tests.paths import ROOT
from tpu_tlm.data.share import Share
from tpu_tlm.data.tokenizers import learn_vocabulary as learning
from tpu_tlm.data.tokenizers import word_counts
from tpu_tlm.data.tokenizers.count_files import CountFiles, DamagedCounts
from tpu_tlm.data.tokenizers.shared_counting import SharedCount
from tpu_tlm.data.tokenizers.word_counts import CountTask, WordCounts
from tpu_tlm.errors import UsageError, run_command
from tpu_tlm.vocab import main

KINDS = ["wordpiece", "bpe", "byte-bpe", "unigram"]
PART = 4000  # bytes of a part here, so that a small text has many


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain text in several scripts with a bad byte, JSON lines, and a compressed file."""
    place = tmp_path_factory.mktemp("text")
    rng = random.Random(3)
    syllables = "an be con der ein fol gue ha im ka lo mar ne over po qui ra sel ta un".split()
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(900)]
    words += [word.capitalize() for word in words[:300]] + ["Ångström", "naïve", "été,", "x" * 120]
    words += ["".join(chr(rng.randint(0x4E00, 0x4E80)) for _ in range(6)) for _ in range(60)]
    words += ["".join(chr(rng.randint(0xE01, 0xE2E)) for _ in range(60)) for _ in range(20)]

    def lines(count: int) -> list[str]:
        return [" ".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(count)]

    (place / "a.txt").write_bytes("\n".join(lines(500)).encode() + b"\nbad \xff byte\n")
    (place / "b.jsonl").write_text("".join(json.dumps({"text": x}) + "\n" for x in lines(200)))
    (place / "c.txt.gz").write_bytes(gzip.compress("\n".join(lines(200)).encode(), mtime=0))
    return place


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "PART_BYTES", PART)


def arguments(text: Path, output: Path | str, kind: str = "wordpiece", *more: str) -> list[str]:
    files = [str(text / name) for name in ("a.txt", "b.jsonl", "c.txt.gz")]
    given = ["--input_files", *files, "--output", str(output), "--subword_type", kind]
    return [*given, "--vocab_size", "700", "--workers", "1", *more]


def contents(directory: Path) -> dict[str, bytes]:
    """All that is in a directory, by relative path."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def shared(text: Path, output: Path, kind: str, of: int, *more: str) -> dict[str, bytes]:
    """What `of` processes make, of which the last comes first."""
    for index in reversed(range(of)):
        share = ["--index", str(index), "--of", str(of)]
        assert main([*arguments(text, output, kind, *more), *share]) == 0
    return contents(output)


# Runs `vocab` with small parts, and kills it when it gives a file its name for the n-th time.
DRIVER = """
    import os, signal, sys
    from tpu_tlm.data.tokenizers import learn_vocabulary
    from tpu_tlm.errors import run_command
    from tpu_tlm.filesystem import local

    part, name, left, *argv = sys.argv[1:]
    learn_vocabulary.PART_BYTES, left = int(part), int(left)

    class Os:
        def __getattr__(self, name):
            return getattr(os, name)

        def replace(self, source, target):
            global left
            if name in os.path.basename(target):
                left -= 1
                if not left:
                    os.truncate(source, os.path.getsize(source) // 2)
                    os.kill(os.getpid(), signal.SIGKILL)
            os.replace(source, target)

    local.os = Os()
    from tpu_tlm.vocab import main
    code = run_command(main, argv)
    assert "tensorflow" not in sys.modules, "TensorFlow was imported"
    sys.exit(code)
"""


def start(
    argv: list[str], kill: str = "no", times: int = 1, **environ: str
) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(DRIVER), str(PART), kill, str(times), *argv]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environ}, **pipes)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    return process.returncode, out, err


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_processes_writes_the_same_bytes(
    kind: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(text, tmp_path / "local", kind)) == 0
    said = capsys.readouterr().out
    local = contents(tmp_path / "local")
    for of in (1, 2, 3):
        work = ["--work_dir", str(tmp_path / "work")] if of < 3 else []
        assert shared(text, tmp_path / str(of), kind, of, *work) == local
        # Process 0 says what the local command says, bad input and dropped words included.
        lines = capsys.readouterr().out.splitlines()
        assert lines[-len(said.splitlines()) : -1] == said.splitlines()[:-1]
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_words_are_dropped_for_room_as_by_one_process(
    kind: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which words stay depends on when the tables were full, so on parts and their order alone."""
    monkeypatch.setattr(word_counts, "_LARGEST_PART_TABLE", 100)
    monkeypatch.setattr(word_counts, "LARGEST_TABLE", 300)
    more = ["--vocab_size", "250"] if kind == "wordpiece" else []
    assert main(arguments(text, tmp_path / "local", kind, *more)) == 0
    assert shared(text, tmp_path / "3", kind, 3, *more) == contents(tmp_path / "local")


def test_a_killed_process_is_run_again(text: Path, tmp_path: Path) -> None:
    assert main(arguments(text, tmp_path / "local")) == 0
    output = tmp_path / "out"
    work = output / ".vocab"

    def argv(index: int) -> list[str]:
        return arguments(text, output, "wordpiece", "--index", str(index), "--of", "3")

    first = start(argv(0))
    assert ended(start(argv(1), "counts-", 2))[0] == -signal.SIGKILL
    left = {path.name: path.stat().st_mtime_ns for path in work.glob("counts-*")}
    assert sum(name.endswith(".tmp") for name in left) >= 1, "it was killed while it wrote"
    code, out, _ = ended(start(argv(2)))
    assert code == 0 and "process 2 of 3" in out and "process 0 learns" in out
    assert first.poll() is None, "process 0 must wait for the killed one"
    kept = next(name for name in left if not name.endswith(".tmp"))
    assert (work / kept).stat().st_mtime_ns == left[kept]
    code, _, err = ended(start(argv(1)))
    assert code == 0 and "1 parts were counted before" in err
    code, out, _ = ended(first)
    assert code == 0 and "wrote" in out
    assert contents(output) == contents(tmp_path / "local"), "and nothing else is left"
    # A process that is run again when all is done has nothing to do.
    code, out, _ = ended(start(argv(1)))
    assert code == 0 and "nothing to count" in out and not work.exists()


@pytest.mark.parametrize("kill", ["counts-", "vocab.txt", "tokenizer_info.json"])
def test_the_process_that_learns_is_killed_and_run_again(
    kill: str, text: Path, tmp_path: Path
) -> None:
    assert main(arguments(text, tmp_path / "local")) == 0
    output = tmp_path / "out"

    def argv(index: int) -> list[str]:
        return arguments(text, output, "wordpiece", "--index", str(index), "--of", "2")

    assert main(argv(1)) == 0
    assert ended(start(argv(0), kill, 1))[0] == -signal.SIGKILL
    assert ended(start(argv(0)))[0] == 0
    written = {name: data for name, data in contents(output).items() if not name.endswith(".tmp")}
    assert written == contents(tmp_path / "local")


def test_an_interrupted_count_of_one_process_continues(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments(text, tmp_path / "out", "bpe", "--work_dir", str(tmp_path / "work"))
    assert ended(start(argv, "counts-", 4))[0] == -signal.SIGKILL
    assert main(argv) == 0 and "3 parts were counted before" in capsys.readouterr().err
    assert main(arguments(text, tmp_path / "local", "bpe")) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


def _halved(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _one_bit(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 4]) + data[-8:]


@pytest.mark.parametrize("damage", [_halved, _one_bit, lambda data: b"", lambda data: b"[]\n"])
def test_damaged_counts_are_named_and_counted_again(
    damage: Any, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(text, tmp_path / "local")) == 0
    output = tmp_path / "out"
    argv = arguments(text, output, "wordpiece", "--of", "2")
    assert main([*argv, "--index", "1"]) == 0
    # One file is damaged, another is of the wrong part.
    one, two, three, *_ = sorted((output / ".vocab").glob("counts-*"))
    one.write_bytes(damage(one.read_bytes()))
    two.write_bytes(three.read_bytes())
    assert main(argv) == 0
    err = capsys.readouterr().err
    assert f"{one}: is damaged" in err and f"{two}: holds counts of something else" in err
    assert err.count("counted again") == 2
    assert contents(output) == contents(tmp_path / "local")


def test_counts_of_something_else_are_removed(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(text, tmp_path / "local")) == 0
    output = tmp_path / "out"
    argv = arguments(text, output, "wordpiece", "--of", "2")
    assert main([*argv, "--index", "1", "--cased", "false"]) == 0
    old = {path.name for path in (output / ".vocab").glob("counts-*")}
    assert main([*argv, "--index", "1"]) == 0
    assert old < {path.name for path in (output / ".vocab").glob("counts-*")}
    assert main(argv) == 0
    err = capsys.readouterr().err
    assert "word counts of another vocabulary removed (cased: False there, True now)" in err
    assert contents(output) == contents(tmp_path / "local")


def test_a_process_with_other_options_is_named_while_the_first_waits(
    text: Path, tmp_path: Path
) -> None:
    argv = arguments(text, tmp_path / "out", "wordpiece", "--of", "2")
    first = start(argv)
    while not list((tmp_path / "out").glob(".vocab/counts-*")):
        assert first.poll() is None
        time.sleep(0.01)
    assert main([*argv, "--index", "1", "--json_field", "body"]) == 0
    assert first.stderr is not None
    line = first.stderr.readline()
    while "counts something else" not in line:
        assert line, "it ended"
        line = first.stderr.readline()
    assert "(json_field: body there, text now)" in line
    assert main([*argv, "--index", "1"]) == 0
    assert ended(first)[0] == 0


def test_a_process_without_a_part_leaves_nothing(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody waits for it: process 0 may have removed the work directory before it comes."""
    assert main(arguments(text, tmp_path / "out", "bpe", "--index", "99", "--of", "100")) == 0
    assert "process 99 of 100: its 0 parts of" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_somebody_else_is_not_overwritten(text: Path, tmp_path: Path) -> None:
    """Also not by a run that was killed while it wrote and is run again."""
    output = tmp_path / "out"
    argv = arguments(text, output, "wordpiece", "--work_dir", str(tmp_path / "work"))
    assert ended(start(argv, "vocab.txt", 1))[0] == -signal.SIGKILL
    (output / "vocab.txt").write_text("[PAD]\n")
    with pytest.raises(UsageError, match="holds a tokenizer already"):
        main(argv)
    assert (output / "vocab.txt").read_text() == "[PAD]\n"


def test_one_process_of_an_index_at_a_time(tmp_path: Path) -> None:
    task = CountTask("bpe", True, "text", False)

    def count(index: int) -> SharedCount:
        return SharedCount(CountFiles(str(tmp_path), {}), task, Share(index, 2), print)

    with count(1).locked(), count(0).locked():
        with pytest.raises(UsageError, match=r"counts here now as process 1: wait .*--output"):
            with count(1).locked():
                pass
    with count(1).locked():
        pass


def test_counts_survive_their_file(tmp_path: Path) -> None:
    files = CountFiles(str(tmp_path), {"pipeline": 1})
    words = word_counts.Counter({"b": 3, "a": 1 << 40, "\ud800": 2, "\u4e2d": 1})
    letters = word_counts.Counter({"\ud800": 5, "é": 1})
    counts = WordCounts(words, letters, documents=2, lines=3, size=4, weight=5, dropped=6)
    counts.bad.add("bad", lambda: "a.txt:3", "", False)
    files.save(7, counts)
    files.save(8, WordCounts())
    assert files.listed() == ({7, 8}, [])
    found, total = files.load(7), WordCounts()
    total.add(found)
    assert list(total.words.items()) == list(words.items()) and total.letters == letters
    assert (total.bad, total.documents, total.lines) == (counts.bad, 2, 3)
    assert (total.size, total.weight, total.dropped) == (4, 5, 6)
    total.add(files.load(8))
    assert total.words == words
    other = CountFiles(str(tmp_path), {"pipeline": 2})
    assert other.listed() == (set(), [files.path(7), files.path(8)])
    os.replace(files.path(7), other.path(7))
    with pytest.raises(DamagedCounts, match="something else"):
        other.load(7)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--index", "3", "--of", "3"], "--index 3: must be below --of 3"),
        (["--index", "1"], "--index 1: must be below --of 1"),
        (["--of", "2", "--runner", "beam"], "--of: acts only with --runner local"),
        (["--beam_options", "runner=DirectRunner"], "--beam_options: acts only with --runner beam"),
        (["--work_dir", "FILE"], "FILE"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    more: list[str],
    message: str,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "FILE").write_text("")
    more = [str(tmp_path / word) if word == "FILE" else word for word in more]
    assert run_command(main, arguments(text, tmp_path / "out", "bpe", *more)) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert not (tmp_path / "out").exists()


def test_the_python_face(text: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"subword_type": "wordpiece", "vocab_size": 300, "workers": 1}
    one = tlm.learn_tokenizer(text / "a.txt", tmp_path / "one", **options)
    assert tlm.learn_tokenizer(text / "a.txt", tmp_path / "two", index=1, of=2, **options) is None
    two = tlm.learn_tokenizer(text / "a.txt", tmp_path / "two", of=2, **options)
    assert one.fingerprint() == two.fingerprint()
    with pytest.raises(tlm.UsageError, match=r"^index 2: must be below of 2$"):
        tlm.learn_tokenizer(text / "a.txt", tmp_path / "x", index=2, of=2, **options)


def test_in_a_bucket(text: Path, tmp_path: Path) -> None:
    """No disk is shared: text, counts and vocabulary are on gs://, and calls fail."""
    assert main(arguments(text, tmp_path / "local")) == 0
    with Bucket(seed=2) as bucket:
        names = ("a.txt", "b.jsonl", "c.txt.gz")
        for name in names:
            where = f"/upload/storage/v1/b/{NAME}/o?uploadType=media&name=text/{name}"
            assert bucket.ask("POST", where, (text / name).read_bytes())[0] == 200
        bucket.fail(action=503, chance=0.02)

        def argv(index: int) -> list[str]:
            place, share = f"gs://{NAME}", ["--index", str(index), "--of", "2"]
            given = arguments(text, f"{place}/vocab", "wordpiece", *share)
            return [word.replace(str(text), f"{place}/text") for word in given]

        first = start(argv(0), **bucket.environ)
        second = start(argv(1), **bucket.environ)
        while not any(key.startswith("vocab/.vocab/counts-") for key in bucket.objects()):
            assert first.poll() is None and second.poll() is None
            time.sleep(0.01)
        second.kill()
        second.wait()
        code, out, err = ended(start(argv(1), **bucket.environ))
        assert code == 0 and "process 1 of 2" in out, err
        code, out, err = ended(first)
        assert code == 0, err
        found = bucket.objects("vocab/")
    found = {key.removeprefix("vocab/"): data for key, data in found.items() if key[-1] != "/"}
    assert found == contents(tmp_path / "local")
