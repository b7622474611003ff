"""What a name that stands in a file may open: a table of attacks."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tpu_tlm import filesystem
from tpu_tlm.errors import UsageError

NOT_PLAIN: list[Any] = [
    *("", ".", "..", "/", "a/b", "a/", "/etc/passwd", "../x", "a/../../x", "..\\x", "C:\\x"),
    *("gs://bucket/x", "file:///etc/passwd", "~/x/y", "a\x00b", "a\nb", "\x1b[31m", "\x7f"),
    *("\ud800", "x" * 256, "é" * 128, None, 7, b"x", ["x"], {"x": 1}, True),
]
PLAIN = [
    "x",
    ".hidden",
    "a b",
    "model-00001-of-00002.safetensors",
    "...",
    "é",
    "~",
    "a:b",
    "x" * 255,
]


@pytest.mark.parametrize("name", NOT_PLAIN, ids=ascii)
@pytest.mark.parametrize("directory", ["{tmp}", "gs://bucket/dir", ""])
def test_only_plain_names_are_taken(tmp_path: Path, directory: str, name: Any) -> None:
    directory = directory.format(tmp=tmp_path)
    for function in (filesystem.safe_join, filesystem.check_inside, filesystem.open_inside):
        with pytest.raises(UsageError, match="index.json: names the file .*plain name"):
            function(directory, name, "index.json")


@pytest.mark.parametrize("name", PLAIN, ids=ascii)
def test_plain_names_are_joined(tmp_path: Path, name: str) -> None:
    assert filesystem.safe_join(str(tmp_path), name) == f"{tmp_path}/{name}"
    assert filesystem.safe_join("gs://bucket/dir/", name) == f"gs://bucket/dir/{name}"
    (tmp_path / name).write_bytes(b"content")
    assert filesystem.check_inside(str(tmp_path), name) == f"{tmp_path}/{name}"
    assert filesystem.read_inside(str(tmp_path), name) == b"content"


def _make(kind: str, inside: Path, outside: Path) -> None:
    path = inside / "x"
    (outside / "secret").write_bytes(b"secret")
    (inside / "real").write_bytes(b"content")
    if kind == "socket":
        # The path of a socket is short: bound by its name in the directory.
        with socket.socket(socket.AF_UNIX) as made:
            here = os.getcwd()
            os.chdir(inside)
            made.bind("x")
            os.chdir(here)
        return
    {
        "absolute link out": lambda: path.symlink_to(outside / "secret"),
        "relative link out": lambda: path.symlink_to(f"../{outside.name}/secret"),
        "link by a linked directory": lambda: (
            (inside / "dir").symlink_to(outside),
            path.symlink_to("dir/secret"),
        ),
        "link to a device": lambda: path.symlink_to("/dev/zero"),
        "link to a process": lambda: path.symlink_to("/proc/self/environ"),
        "link to itself": lambda: path.symlink_to("x"),
        "link to nothing": lambda: path.symlink_to("nothing"),
        "fifo": lambda: os.mkfifo(path),
        "directory": path.mkdir,
        "missing": lambda: None,
    }[kind]()


KINDS = [
    *("absolute link out", "relative link out", "link by a linked directory", "link to a device"),
    *("link to a process", "link to itself", "link to nothing", "fifo", "directory", "missing"),
    "socket",
]


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_inside_are_opened(tmp_path: Path, kind: str) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    _make(kind, inside, outside)
    for function in (filesystem.check_inside, filesystem.open_inside, filesystem.read_inside):
        with pytest.raises(UsageError, match="x: "):
            function(str(inside), "x")


def test_links_inside_and_a_linked_directory_are_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"content")
    (tmp_path / "real" / "y").symlink_to("x")
    (tmp_path / "linked").symlink_to("real")
    for directory in ("real", "linked"):
        assert filesystem.read_inside(str(tmp_path / directory), "y") == b"content"


def test_huggingfaces_cache_is_read(tmp_path: Path) -> None:
    """snapshots/REVISION/NAME is a link to blobs/HASH there, and to nothing else."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "hash").write_bytes(b"content")
    (tmp_path / "refs").write_bytes(b"secret")
    (snapshot / "x").symlink_to("../../blobs/hash")
    (snapshot / "y").symlink_to("../../refs")
    assert filesystem.read_inside(str(snapshot), "x") == b"content"
    with pytest.raises(UsageError, match="link"):
        filesystem.read_inside(str(snapshot), "y")


def test_a_file_above_the_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert filesystem.read_inside(str(tmp_path), "x", limit=5) == b"12345"
    with pytest.raises(UsageError, match="x: is larger than 4 bytes"):
        filesystem.read_inside(str(tmp_path), "x", limit=4)


def test_writing_replaces_a_link_and_does_not_follow_it(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"old")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "x").symlink_to("../outside")
    filesystem.write_bytes(filesystem.safe_join(str(tmp_path / "inside"), "x"), b"new")
    assert (tmp_path / "outside").read_bytes() == b"old"
    assert not (tmp_path / "inside" / "x").is_symlink()
