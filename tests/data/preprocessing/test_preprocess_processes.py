"""The preprocess command in several processes, killed and run again."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command_modules import preprocess
from tests.paths import DATA_FILES, ROOT
from tpu_tlm.config import CorpusConfig
from tpu_tlm.data.corpus.inputs import expand_inputs
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.data.preprocessing.packing import Packing
from tpu_tlm.data.preprocessing.preprocess import parts_of
from tpu_tlm.data.preprocessing.work_dir import WorkDirectory
from tpu_tlm.data.preprocessing.worker import PartResult, PreprocessJob, Worker, load_results
from tpu_tlm.errors import TlmError, UsageError

TOKENIZERS = DATA_FILES / "tokenizers"


def _corpus(directory: Path, size: int) -> Path:
    rng = random.Random(1)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 9))) for _ in range(3000)]
    text = []
    while size > 0:
        text.append(
            " ".join(rng.choices(words, k=rng.randint(3, 25))) + rng.choice(["\n", "\n", "\n\n"])
        )
        size -= len(text[-1])
    path = directory / "corpus.txt"
    path.write_text("".join(text))
    return path


def _command(source: Path, output: Path, *options: str) -> list[str]:
    files = ["--codes", str(TOKENIZERS / "codes"), "--vocab", str(TOKENIZERS / "vocab")]
    given = ["--seq_length", "32", "--valid_fraction", "0.1", "--max_file_size", "0.3", *options]
    return [
        sys.executable,
        "-m",
        "tpu_tlm.preprocess",
        "--input_files",
        str(source),
        "--output",
        str(output),
        *files,
        *given,
    ]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _hashes(directory: Path) -> dict[str, str]:
    return {
        str(p.relative_to(directory)): hashlib.md5(p.read_bytes()).hexdigest()
        for p in sorted(directory.rglob("*"))
        if p.is_file()
    }


def _family(pid: int) -> set[int]:
    """A process and all below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rpartition(")")[2].split()[1]
                )
            except OSError:
                continue
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _kill_when(command: list[str], ready: Callable[[], bool]) -> set[int]:
    """Run a command and kill it with SIGKILL as soon as `ready`; gives the processes it had."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    family = _family(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return family - {process.pid}


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _corpus(tmp_path_factory.mktemp("corpus"), 4_000_000)


@pytest.fixture(scope="module")
def whole(source: Path) -> dict[str, str]:
    """The files of an undisturbed run with one worker."""
    output = source.parent / "whole"
    _run(_command(source, output, "--workers", "1"))
    assert len(open_dataset(str(output / "train")).shards) > 3
    return _hashes(output)


def test_the_bytes_do_not_depend_on_the_workers(
    tmp_path: Path, source: Path, whole: dict[str, str]
) -> None:
    for workers in ("2", "3"):
        _run(_command(source, tmp_path / workers, "--workers", workers))
        assert _hashes(tmp_path / workers) == whole


# With two workers: three times while tokenizing, twice while writing shards.
@pytest.mark.parametrize(
    ("workers", "kills"),
    [("1", "part 3, shard 2"), ("2", "part 1, part 6, part 13, shard 1, shard 4")],
)
def test_killed_and_continued(
    tmp_path: Path, source: Path, whole: dict[str, str], workers: str, kills: str
) -> None:
    output = tmp_path / "out"
    command, work = _command(source, output, "--workers", workers), output / ".preprocess"
    kept: dict[Path, int] = {}

    def still_kept() -> None:
        for path, changed in kept.items():
            assert path.stat().st_mtime_ns == changed, f"{path} was done again"
        for pattern in ("part-*.json", "shard-*.json"):
            kept.update({path: path.stat().st_mtime_ns for path in work.glob(pattern)})
        assert not list(output.rglob("md.yml"))
        with pytest.raises(UsageError):
            open_dataset(str(output / "train"))

    for kind, count in (kill.split() for kill in kills.split(", ")):
        left = _kill_when(
            command,
            lambda kind=kind, count=count: len(list(work.glob(f"{kind}-*.json"))) >= int(count),
        )
        deadline = time.monotonic() + 20
        while any(_alive(pid) for pid in left):
            assert time.monotonic() < deadline, "a worker outlived its killed parent"
            time.sleep(0.05)
        still_kept()
    printed = _run(command)
    assert "shards were there from before" in printed and not work.exists()
    assert _hashes(output) == whole


def test_workers_write_through_tensorflows_file_system(
    tmp_path: Path, source: Path, whole: dict[str, str]
) -> None:
    # file:// takes the same way as gs://.
    remote = f"file://{tmp_path}/out"
    _run(
        [
            *_command(source, Path("x"), "--workers", "2", "--work_dir", str(tmp_path / "work")),
            "--output",
            remote,
        ]
    )
    assert _hashes(tmp_path / "out") == whole and open_dataset(f"{remote}/valid").num_samples > 0


def test_leftovers_of_other_options_are_not_used(
    tmp_path: Path, source: Path, whole: dict[str, str]
) -> None:
    output = tmp_path / "out"
    other = _command(source, output, "--workers", "2", "--seed", "9")
    _kill_when(other, lambda: len(list((output / ".preprocess").glob("shard-*.json"))) >= 1)
    done = subprocess.run(
        _command(source, output, "--workers", "2"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (
        done.returncode == 0
        and "leftovers of another preprocessing removed (seed: 9 there, 0 now)" in done.stderr
    )
    assert _hashes(output) == whole


def test_a_worker_that_dies_is_reported(tmp_path: Path, source: Path) -> None:
    output = tmp_path / "out"
    process = subprocess.Popen(
        _command(source, output, "--workers", "2"), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not (list((output / ".preprocess").glob("part-*.json")) if output.exists() else []):
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(max(_family(process.pid)), signal.SIGKILL)  # the youngest is a worker
    _, errors = process.communicate(timeout=60)
    assert (
        process.returncode == 1 and "a worker process died" in errors and "Traceback" not in errors
    )


def test_one_preprocess_at_a_time(tmp_path: Path) -> None:
    first = WorkDirectory(str(tmp_path / "work"))
    with pytest.raises(UsageError, match="another preprocess is writing this output"):
        WorkDirectory(str(tmp_path / "work"))
    first.close()
    second = WorkDirectory(str(tmp_path / "work"))
    assert second.claim({"seed": 1}) is None
    (tmp_path / "work" / "part-000000.json").write_text(json.dumps({}))
    assert second.claim({"seed": 1}) is None and (tmp_path / "work" / "part-000000.json").exists()
    assert (
        second.claim({"seed": 2}) == "seed: 1 there, 2 now"
        and not (tmp_path / "work" / "part-000000.json").exists()
    )
    second.close()


def test_strict_stops_all_workers(tmp_path: Path, source: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes(source.read_bytes()[:2_000_000] + b"\n\xff\n" + source.read_bytes()[:2_000_000])
    begun = time.monotonic()
    done = subprocess.run(
        _command(bad, tmp_path / "out", "--workers", "2", "--strict"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (
        done.returncode == 2
        and "bad.txt:" in done.stderr
        and len(done.stderr.strip().splitlines()) == 1
    )
    assert time.monotonic() - begun < 60


def test_several_machines_make_the_same_bytes(
    tmp_path: Path, source: Path, whole: dict[str, str]
) -> None:
    """Three processes that share a disk, as the pods of an Indexed Job; one is killed and rerun."""
    output = tmp_path / "out"
    commands = [
        _command(source, output, "--workers", "1", "--index", str(index), "--of", "3")
        for index in range(3)
    ]
    work = output / ".preprocess"
    # One that comes first waits for process 0, which prepares the work directory.
    early = subprocess.Popen(commands[1], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    _kill_when(commands[0], lambda: len(list(work.glob("part-*.json"))) >= 2)
    assert not list(output.rglob("md.yml"))
    others = [
        subprocess.Popen(commands[i], cwd=ROOT, stdout=subprocess.PIPE, text=True) for i in (0, 2)
    ]
    for process in (early, *others):
        process.communicate(timeout=200)
        assert process.returncode == 0
    assert _hashes(output) == whole and not work.exists()
    assert "nothing to do" in _run(commands[2])


def test_the_work_may_go_once_the_leftovers_are_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Process 0 does not wait for one without shards: it ends well though all is gone."""
    source, output = _corpus(tmp_path, 600_000), tmp_path / "out"
    share = ["--workers", "1", "--max_file_size", "100", "--of", "2", "--index"]
    load, last = PartResult.load, len(parts_of(expand_inputs(CorpusConfig([str(source)]))))
    seen: list[int] = []

    def slowly(job: PreprocessJob, part: int) -> PartResult | None:
        deadline = time.monotonic() + 60
        while (found := load(job, part)) is None and part == last:
            assert time.monotonic() < deadline and first.poll() is None
        if part == last:
            seen.append(part)
            while (output / ".preprocess").exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
        return found

    monkeypatch.setattr(PartResult, "load", staticmethod(slowly))
    first = subprocess.Popen(_command(source, output, *share, "0"), cwd=ROOT)
    assert preprocess.main(_command(source, output, *share, "1")[3:]) == 0
    assert first.wait(60) == 0 and seen == [last]
    assert "process 1 of 2" in capsys.readouterr().out
    assert len(open_dataset(str(output / "train")).shards) == 1


def test_a_part_that_is_gone_is_named(tmp_path: Path) -> None:
    job = PreprocessJob(str(tmp_path), {"all": "x"}, Packing(8, 0), 9, "text", False, False, 0, 0.0)
    with pytest.raises(TlmError, match=r"part-000000\.json: is gone"):
        list(load_results(job, 1))
    with pytest.raises(TlmError, match=r"part-000000\.json: is gone"):
        Worker(job).write_shard("all", 0, [1], 1)


def test_a_share_that_cannot_be_is_refused(tmp_path: Path, source: Path) -> None:
    for more, message in (
        (["--index", "3", "--of", "3"], "--index 3"),
        (["--of", "2", "--output", "ram://bucket/set"], "--output ram://bucket/set: no other"),
        (["--of", "2", "--work_dir", "ram://b/w"], "--work_dir ram://b/w: no other process"),
    ):
        done = subprocess.run(
            _command(source, tmp_path / "out", *more), cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 2 and message in done.stderr


def _limited(limit: str, source: Path, output: Path, *options: str) -> tuple[int, str]:
    """Exit code and standard error of the command under a limit that the shell sets."""
    shell = ["bash", "-c", f'ulimit {limit}; exec "$@"', "bash"]
    command = [*shell, *_command(source, output, *options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


def test_too_few_open_files_for_the_workers_are_one_line(tmp_path: Path) -> None:
    source = _corpus(tmp_path, 300_000)
    code, said = _limited("-n 20", source, tmp_path / "a", "--workers", "2")
    assert code == 1 and said.count("\n") == 1 and "20 are allowed" in said and "ulimit -n" in said
    # The soft limit is raised where that is allowed, for the server of processes, too.
    code, said = _limited("-S -n 20", source, tmp_path / "b", "--workers", "12")
    assert code == 0 and said.startswith("warning: ") and said.count("\n") == 1  # unknown words


def test_a_name_that_is_too_long_is_wrong_use(tmp_path: Path) -> None:
    code, said = _limited("-n 500", _corpus(tmp_path, 1000), tmp_path / ("x" * 300))
    assert code == 2 and said.count("\n") == 1 and "File name too long" in said
