"""`doctor PATH`: what works in a bucket or directory, and what is missing."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bucket import Bucket
from tests.command_modules import doctor
from tpu_tlm.filesystem.check import check_place

PLACE = "gs://bucket/a/run"


def _states(path: str) -> dict[str, bool]:
    return {one.name: one.good for one in check_place(path)}


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A metadata server that says where this machine is."""
    where = ["projects/1/zones/us-central1-a"]

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(where[0].encode())

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
        yield where
        server.shutdown()


def test_a_good_bucket_is_left_as_it_was(
    bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main([PLACE]) == 0
    text = capsys.readouterr().out
    for name in ("list", "write", "read", "preconditions", "delete"):
        assert f"{name}" in text and "PROBLEM" not in text
    assert bucket.objects() == {}
    assert doctor.main([PLACE, "--json", "true"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {one["name"] for one in printed["places"][PLACE]} >= {"region", "preconditions"}


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", r"/o\?", "list"),
        ("POST", "/upload/", "write"),
        ("GET", "alt=media", "read"),
        ("DELETE", "/o/", "delete"),
    ],
)
def test_what_is_missing_is_said(
    bucket: Bucket, capsys: pytest.CaptureFixture[str], method: str, path: str, name: str
) -> None:
    bucket.fail(method, path, 403)
    assert doctor.main([PLACE]) == 1
    [line] = [line for line in capsys.readouterr().out.splitlines() if "PROBLEM" in line]
    assert line.split()[0] == name
    assert not _states(PLACE)[name]


def test_a_store_that_ignores_preconditions(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bucket, "violated", lambda *_: None)
    monkeypatch.setattr(
        "tpu_tlm.filesystem.cloud_storage.CloudStorage._put", lambda self, path, put, version: 1
    )
    monkeypatch.setattr("tpu_tlm.filesystem.check._read", lambda *_: "")
    assert not _states(PLACE)["preconditions"]


def test_the_region(bucket: Bucket, zone: list[str]) -> None:
    def region() -> tuple[bool, str]:
        [one] = [one for one in check_place(PLACE) if one.name == "region"]
        assert not one.stops
        return one.good, one.found

    assert region() == (True, "us-central1, as this machine (us-central1)")
    zone[0] = "projects/1/zones/europe-west4-a"
    good, found = region()
    assert not good and "us-central1" in found and "europe-west4" in found


def test_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([str(tmp_path / "new")]) == 0
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("")
    assert doctor.main([str(tmp_path / "file")]) == 1
    assert "Not a directory" in capsys.readouterr().out
