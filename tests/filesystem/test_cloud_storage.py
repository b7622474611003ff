"""Google Cloud Storage through the gate: contents, faults, preconditions, causes of failure."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.bucket import Bucket
from tests.paths import ROOT
from tests.ports import free_ports
from tpu_tlm import filesystem
from tpu_tlm.data.dataset.metadata import write_metadata
from tpu_tlm.data.dataset.records import token_layout
from tpu_tlm.data.dataset.shards import Shard
from tpu_tlm.data.progress import ProgressBar, download
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.filesystem import cloud_errors
from tpu_tlm.filesystem.cloud_storage import CloudStorage
from tpu_tlm.filesystem.lock import Held, Lease

BASE = "gs://bucket/some/dir"
FILES = CloudStorage()


def test_bytes_and_listings(bucket: Bucket) -> None:
    path = f"{BASE}/a.bin"
    assert not filesystem.exists(path) and not filesystem.is_directory(BASE)
    for data in (b"one", b"", b"two" * 1000):
        filesystem.write_bytes(path, data)
        assert filesystem.read_bytes(path) == data and filesystem.file_size(path) == len(data)
    filesystem.write_bytes(f"{BASE}/deep/b.txt", b"b")
    filesystem.write_bytes(f"{BASE}/deep/.hidden.txt", b"b")
    assert filesystem.list_names(BASE) == ["a.bin", "deep"] == filesystem.list_names(f"{BASE}/")
    assert filesystem.file_sizes(BASE) == {"a.bin": 6000 // 2, "deep": None}
    assert filesystem.is_directory(BASE) and not filesystem.is_directory(path)
    assert filesystem.find(f"{BASE}/*") == [path]
    assert filesystem.find(f"{BASE}/**") == [path, f"{BASE}/deep/b.txt"]
    assert filesystem.find(f"{BASE}/**/*.txt") == [f"{BASE}/deep/b.txt"]
    assert filesystem.find("gs://bucket/s?me/[a-d]ir/a[.]bin") == [path]
    with filesystem.open_read(path) as stream:
        stream.seek(3)
        assert stream.read(4) == b"twot"
    filesystem.remove(path)
    filesystem.remove(path)
    filesystem.remove_tree(BASE)
    assert not filesystem.exists(BASE) and filesystem.list_names(BASE) == []
    filesystem.make_directory(f"{BASE}/empty")
    assert filesystem.is_directory(f"{BASE}/empty") and filesystem.list_names(BASE) == ["empty"]
    assert filesystem.list_names(f"{BASE}/empty") == []


@pytest.mark.parametrize("action", [503, "reset", "cut"])
def test_a_large_object_comes_in_pieces(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: object
) -> None:
    monkeypatch.setattr("tpu_tlm.filesystem.cloud_storage._PIECE", 10_000)
    monkeypatch.setattr("tpu_tlm.data.progress._LARGE", 100_000)
    data, path = os.urandom(123_456), f"{BASE}/large.bin"
    filesystem.write_bytes(path, data)
    bucket.fail("GET", "alt=media", action, chance=0.3)
    heard: list[tuple[int, int]] = []
    with FILES.open_local(path, lambda *done: heard.append(done)) as stream:
        assert stream.read() == data
    assert [total for _, total in heard] == [123_456] * 13
    assert sorted(heard) == heard and heard[-1][0] == 123_456
    shown: list[str] = []
    monkeypatch.setattr(ProgressBar, "start", lambda self, name, total: shown.append(name))
    with download(path) as progress:
        FILES.open_local(path, progress).close()
    assert shown == [f"downloading {path}"]
    with download(str(tmp_path)) as progress:
        assert progress is None


def test_a_download_that_is_not_the_object_is_refused(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tpu_tlm.filesystem.cloud_storage._PIECE", 10_000)
    path, pieces = f"{BASE}/large.bin", []
    filesystem.write_bytes(path, bytes(50_000))
    from google.cloud.storage import Blob

    def flipped(self: Blob, **options: Any) -> bytes:
        pieces.append(options["start"])
        return bytes(options["end"] - options["start"]) + b"\1"

    monkeypatch.setattr(Blob, "download_as_bytes", flipped)
    with pytest.raises(TlmError, match=r"large\.bin: network: .*CRC-32C"), filesystem.naming(path):
        FILES.fetch(path, str(tmp_path / "x"))
    assert len(pieces) == 5


def test_tensorflow_is_not_imported() -> None:
    code = (
        "import sys; from tpu_tlm import filesystem; filesystem.of('gs://b/o');"
        "assert not any(n.startswith(('tensorflow', 'google')) for n in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("action", [503, 429, "reset", "cut", "lost", ("slow", 0.02)])
def test_faults_change_no_byte(bucket: Bucket, tmp_path: Path, action: object) -> None:
    bucket.fail(action=action, chance=0.3)
    large = os.urandom(9 << 20)
    contents = {f"{i}.bin": os.urandom(1000 * i + 1) for i in range(12)}
    (tmp_path / "in" / "below").mkdir(parents=True)
    for name, data in contents.items():
        (tmp_path / "in" / "below" / name).write_bytes(data)
    heard: list[tuple[int, int]] = []
    filesystem.upload(str(tmp_path / "in"), BASE, lambda *done: heard.append(done))
    total = sum(map(len, contents.values()))
    assert heard[-1] == (total, total) and len(heard) == 12
    filesystem.download(BASE, str(tmp_path / "out"))
    for name, data in contents.items():
        assert (tmp_path / "out" / "below" / name).read_bytes() == data
        assert filesystem.read_bytes(f"{BASE}/below/{name}") == data
    with filesystem.replacing(f"{BASE}/large.bin") as stream:
        for at in range(0, len(large), 1 << 20):
            stream.write(large[at : at + (1 << 20)])
    assert filesystem.read_bytes(f"{BASE}/large.bin") == large
    with filesystem.open_read(f"{BASE}/large.bin") as source:
        assert source.read(100) == large[:100]
        source.seek(9_000_000)
        assert source.read() == large[9_000_000:]
    filesystem.remove_tree(BASE)
    assert bucket.objects() == {}
    assert any(call[2] == action for call in bucket.calls)


def test_an_error_answer_that_breaks_off_is_asked_for_again(bucket: Bucket, tmp_path: Path) -> None:
    absent = f"{BASE}/absent"
    reads = [
        lambda: FILES.read(absent),
        lambda: FILES.fetch(absent, str(tmp_path / "absent")),
        lambda: FILES.size(absent),
        lambda: FILES.open(absent),
    ]
    for read in reads:
        bucket.fail("GET", action="cut", times=2)
        before = len(bucket.calls)
        with pytest.raises(FileNotFoundError):
            read()
        calls = bucket.calls[before:]
        assert [action for *_, action in calls] == ["cut", "cut", None], calls


def test_no_call_is_made_behind_our_back(bucket: Bucket) -> None:
    FILES.write(f"{BASE}/a", b"x")
    assert FILES.read(f"{BASE}/a") == b"x"
    for _ in range(5):
        with pytest.raises(FileNotFoundError):
            FILES.size(f"{BASE}/absent")
    time.sleep(0.3)  # the client library's own threads, were there any
    assert [method for method, *_ in bucket.calls] == ["POST", "GET", *5 * ["GET"]], bucket.calls
    assert all("/o" in path for _, path, _ in bucket.calls), bucket.calls


def test_an_interrupted_write_leaves_the_old_object(bucket: Bucket) -> None:
    filesystem.write_bytes(f"{BASE}/a", b"old")
    with pytest.raises(ZeroDivisionError), filesystem.replacing(f"{BASE}/a") as stream:
        stream.write(b"x" * (9 << 20))
        raise ZeroDivisionError
    bucket.fail("PUT|POST", "/upload/", 403, skip=1)
    with pytest.raises(TlmError), filesystem.replacing(f"{BASE}/a") as stream:
        stream.write(b"x" * (20 << 20))
    assert filesystem.read_bytes(f"{BASE}/a") == b"old"


def test_of_many_writers_one_wins(bucket: Bucket) -> None:
    def attempt(version: int, text: bytes) -> int | None:
        try:
            return FILES.write(f"{BASE}/a", text, version)
        except FileExistsError:
            return None

    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda i: attempt(0, b"%d" % i), range(8)))
    [created] = [version for version in versions if version]
    assert FILES.read(f"{BASE}/a") == b"%d" % versions.index(created)
    assert FILES.version(f"{BASE}/a") == created
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda i: attempt(created, b"%d" % i), range(8)))
    assert sum(version is not None for version in versions) == 1


@pytest.mark.parametrize("size", [10, 9 << 20])
def test_a_lost_answer_is_recognized_as_our_own_success(bucket: Bucket, size: int) -> None:
    lost = bucket.fail("PUT|POST", "/upload/.*(multipart|upload_id)", "lost", times=1)
    version = FILES.write(f"{BASE}/a", b"x" * size, 0)
    assert lost.hits == 1 and FILES.version(f"{BASE}/a") == version
    with pytest.raises(FileExistsError):
        FILES.write(f"{BASE}/a", b"x" * size, 0)


@pytest.mark.parametrize(
    ("status", "message", "cause"),
    [
        (403, "does not have storage.objects.get access", "permission"),
        (403, "The billing account for the owning project is disabled", "billing"),
        (403, "violates constraints/gcp.resourceLocations", "region"),
        (401, "Invalid Credentials", "permission"),
        (404, "The specified bucket does not exist.", "not found"),
        (503, "try again", "503"),
        ("reset", "", "network"),
    ],
)
def test_the_cause_is_named(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, status: object, message: str, cause: str
) -> None:
    monkeypatch.setenv(cloud_errors.DEADLINE, "0.5")
    monkeypatch.setattr(
        "tests.bucket._error",
        lambda code, _: b'{"error": {"code": %d, "message": "%s"}}' % (code, message.encode()),
    )
    bucket.fail(action=status)
    for call in (filesystem.read_bytes, filesystem.list_names, filesystem.file_size):
        with pytest.raises(TlmError, match=cause) as error:
            call(f"{BASE}/a")
        assert str(error.value).startswith(f"{BASE}/a: ")
    with pytest.raises(TlmError, match=cause):
        filesystem.write_bytes(f"{BASE}/a", b"")


def test_a_missing_object_is_wrong_use(bucket: Bucket) -> None:
    for call in (filesystem.read_bytes, filesystem.file_size, filesystem.open_read):
        with pytest.raises(UsageError, match="gs://bucket/some/dir/none: "):
            call(f"{BASE}/none")


def test_a_name_in_a_bucket_that_leads_elsewhere(bucket: Bucket, tmp_path: Path) -> None:
    filesystem.write_bytes(f"{BASE}/x/../../../stolen", b"x")
    with pytest.raises(UsageError, match="only a plain name"):
        filesystem.download(BASE, str(tmp_path / "out"))
    assert list(tmp_path.rglob("stolen")) == []


def test_a_dataset_is_not_written_over_another(bucket: Bucket) -> None:
    layout = token_layout(4, 9)
    shards = [Shard("a.tfrecord", 1, layout.record_bytes, "0" * 64, ("0" * 16,))]
    for _ in range(2):  # the same command again is fine
        write_metadata(BASE, {"nctx": 4, "seed": 1}, layout, shards)
    with pytest.raises(TlmError, match="md.yml: another process"):
        write_metadata(BASE, {"nctx": 4, "seed": 2}, layout, shards)
    assert b"seed: 1" in bucket.objects()["some/dir/md.yml"]


def test_the_lease(bucket: Bucket) -> None:
    def made() -> Lease:
        return Lease(f"{BASE}/lock", FILES, seconds=1.0)

    def taken(one: Lease, patience: float = 5.0) -> Lease:
        one.acquire(patience, lambda holder: None)
        return one

    first = taken(made())
    with pytest.raises(Held, match=f"process {os.getpid()} on "):
        taken(made())
    first.release()
    second = taken(made())
    assert not second.taken_over
    second.release()
    assert bucket.objects() == {}


def _foreign(bucket: Bucket, pid: int = 1) -> None:
    text = b'{"owner": "process %d on a-machine-that-is-gone\\nbegun 5\\n"}' % pid
    FILES.write(f"{BASE}/lock", text)


def test_the_lock_of_a_dead_holder_is_taken_over_and_of_a_living_one_not(bucket: Bucket) -> None:
    _foreign(bucket)
    heard: list[str] = []
    lease = Lease(f"{BASE}/lock", FILES, seconds=0.6)
    with pytest.raises(Held, match="a-machine-that-is-gone"):
        lease.acquire(0.1, heard.append)
    lease.acquire(5.0, heard.append)
    assert lease.taken_over and heard[-1] == "process 1 on a-machine-that-is-gone"
    lease.release()
    _foreign(bucket)
    renewing = threading.Timer(0.3, _foreign, (bucket, 2))
    renewing.start()
    with pytest.raises(Held, match="process 2 on"):
        Lease(f"{BASE}/lock", FILES, seconds=0.8).acquire(5.0, heard.append)
    renewing.join()


def test_a_lost_lease_is_reported(bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    lease = Lease(f"{BASE}/lock", FILES, seconds=0.4)
    lease.acquire(1.0, lambda holder: None)
    _foreign(bucket)
    for _ in range(100):
        if lease.lost:
            break
        threading.Event().wait(0.05)
    lease.release()
    assert "another process took the lock over" in capsys.readouterr().err
    assert b"a-machine-that-is-gone" in bucket.objects()["some/dir/lock"]


def test_the_test_server_takes_another_port_where_somebody_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = free_ports(4)
    with Bucket() as one:
        monkeypatch.setattr("tests.bucket.free_ports", lambda count: [one.back, *free])
        with Bucket() as two:
            assert two.back != one.back and two.objects() == {}
