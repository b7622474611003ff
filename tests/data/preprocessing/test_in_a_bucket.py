"""Preprocessing where no disk is shared: text, parts, shards and `md.yml` are on gs://."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bucket import NAME, Bucket
from tests.data.preprocessing.test_beam import needs_beam
from tests.data.preprocessing.test_preprocess import BPE, documents, write_text
from tests.paths import ROOT
from tpu_tlm.data.dataset.dataset import WORK

PLACE = f"gs://{NAME}"
SPLITS = ["--valid_fraction", "0.1", "--max_file_size", "0.1", "--workers", "1"]


def start(arguments: list[str], bucket: Bucket) -> subprocess.Popen[str]:
    """The command in a process of its own that may be killed."""
    command = [sys.executable, "-m", "tpu_tlm.preprocess", *arguments]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=bucket.environ, **pipes)


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a process that succeeds wrote to standard output and error."""
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out, err


def arguments(source: str, output: str, *more: str) -> list[str]:
    """Options of the command."""
    given = ["--input_files", source, "--output", output, *BPE, "--seq_length", "16"]
    return [*given, *SPLITS, *more]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "a.txt", documents(5_000))


@pytest.fixture(scope="module")
def whole(text: Path) -> dict[str, bytes]:
    """What one process makes in a bucket, undisturbed, with its work on the local disk."""
    with Bucket() as bucket:
        put(bucket, text)
        ended(start(arguments(f"{PLACE}/a.txt", f"{PLACE}/out"), bucket))
        found = objects(bucket, "out")
    assert sum(name.endswith(".tfrecord") for name in found) > 6
    return found


def put(bucket: Bucket, text: Path) -> None:
    """The text as an object."""
    where = f"/upload/storage/v1/b/{NAME}/o?uploadType=media&name=a.txt"
    assert bucket.ask("POST", where, text.read_bytes())[0] == 200


@pytest.fixture
def bucket(text: Path) -> Iterator[Bucket]:
    """A bucket with the text, of whose calls some fail."""
    with Bucket(seed=5) as made:
        put(made, text)
        made.fail(action=503, chance=0.02)
        yield made


def objects(bucket: Bucket, below: str) -> dict[str, bytes]:
    """The objects of a directory by their relative names."""
    found = bucket.objects(f"{below}/")
    return {key.removeprefix(f"{below}/"): data for key, data in found.items() if key[-1] != "/"}


def kill_at(process: subprocess.Popen[str], bucket: Bucket, below: str, name: str) -> None:
    """Kill the process once a note of that name is below a prefix; no dataset is there then."""
    deadline = time.monotonic() + 120
    while not any(name in key and key.endswith(".json") for key in bucket.objects(below)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not any(key.endswith("md.yml") for key in bucket.objects())


def test_three_processes_one_of_them_killed(bucket: Bucket, whole: dict[str, bytes]) -> None:
    """An Indexed Job without a shared disk makes the bytes of one process."""

    def of(index: int) -> subprocess.Popen[str]:
        share = ["--index", str(index), "--of", "3"]
        return start(arguments(f"{PLACE}/a.txt", f"{PLACE}/out", *share), bucket)

    running = [of(index) for index in range(3)]
    kill_at(running[1], bucket, f"out/{WORK}/", "/part-")
    running[1] = of(1)
    for process in running:
        ended(process)
    assert objects(bucket, "out") == whole
    assert "nothing to do" in ended(of(2))[0]


@pytest.mark.parametrize("until", ["part", "shard"])
def test_a_pod_that_is_lost_continues(bucket: Bucket, whole: dict[str, bytes], until: str) -> None:
    """--work_dir gs://: another machine goes on with the parts and shards that are finished."""
    given = arguments(f"{PLACE}/a.txt", f"{PLACE}/out", "--work_dir", f"{PLACE}/work")
    first = start(given, bucket)
    kill_at(first, bucket, "work/", f"/{until}-")
    out, _ = ended(start(given, bucket))
    assert "continued" in out and "were there from before" in out
    assert objects(bucket, "out") == whole and not objects(bucket, "work")


@needs_beam
@pytest.mark.parametrize("work", [[], ["--work_dir", f"{PLACE}/work"]], ids=["none", "given"])
def test_by_beam(bucket: Bucket, whole: dict[str, bytes], work: list[str]) -> None:
    given = [*work, "--runner", "beam", "--beam_options", "runner=DirectRunner"]
    ended(start(arguments(f"{PLACE}/a.txt", f"{PLACE}/out", *given), bucket))
    assert objects(bucket, "out") == whole and not objects(bucket, "work")


def test_work_of_other_options_is_not_used(bucket: Bucket, whole: dict[str, bytes]) -> None:
    given = arguments(f"{PLACE}/a.txt", f"{PLACE}/out", "--work_dir", f"{PLACE}/work")
    other = start([*given, "--seed", "9"], bucket)
    kill_at(other, bucket, "work/", "/part-")
    _, err = ended(start(given, bucket))
    assert "leftovers of another preprocessing removed (seed: 9 there, 0 now)" in err
    assert objects(bucket, "out") == whole


def test_a_part_that_was_cut_is_named(bucket: Bucket, text: Path) -> None:
    given = arguments(f"{PLACE}/a.txt", f"{PLACE}/out", "--work_dir", f"{PLACE}/work")
    first = start(given, bucket)
    kill_at(first, bucket, "work/", "/shard-")
    (rows,) = [k for k in bucket.objects("work/") if k.endswith("part-000003.train.rows")]
    where = f"/upload/storage/v1/b/{NAME}/o?uploadType=media&name={rows.replace('/', '%2F')}"
    assert bucket.ask("POST", where, b"short")[0] == 200
    again = start(given, bucket)
    _, err = again.communicate(timeout=200)
    assert again.returncode == 1 and rows in err and "shorter than its part" in err
    assert "Traceback" not in err and not any(k.endswith("md.yml") for k in bucket.objects())
