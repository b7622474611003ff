"""Whether a place can hold datasets and runs: what `doctor PATH` tries there."""

from __future__ import annotations

import os
import posixpath
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from tpu_tlm import filesystem
from tpu_tlm.errors import TlmError
from tpu_tlm.filesystem.base import FileSystem

_MULTI = {"us": "us-", "eu": "europe-", "asia": "asia-"}  # multi-region -> regions inside


@dataclass(frozen=True)
class Check:
    """One thing that was tried: its name, what was found, and whether it is as needed.

    stops: without it, the place cannot be used; else it is advice.
    """

    name: str
    found: str
    good: bool
    stops: bool = True


def check_place(path: str) -> list[Check]:
    """Try listing, creating, preconditions, reading and deleting in a directory, and its region.

    One small file of a random name is written and removed again. What needs a step that failed is
    left out.
    """
    files = filesystem.of(path)
    made = posixpath.join(path, f".tpu-tlm-check-{uuid.uuid4().hex[:12]}")
    data = os.urandom(64)
    found: list[Check] = []

    def attempt(name: str, call: Callable[[], str]) -> bool:
        try:
            with filesystem.naming(path):
                found.append(Check(name, call(), True))
        except TlmError as error:
            found.append(Check(name, str(error), False))
        return found[-1].good

    if path.startswith("gs://"):
        found.append(_region(path))
    listed = attempt("list", lambda: f"{len(files.sizes(path))} names")
    if listed and attempt("write", lambda: _create(files, path, made, data)):
        attempt("read", lambda: _read(files, made, data))
        attempt("preconditions", lambda: _preconditions(files, made, data))
        attempt("delete", lambda: _delete(files, made))
    return found


def _create(files: FileSystem, path: str, made: str, data: bytes) -> str:
    if not filesystem.is_remote(path):
        files.make(path)
    files.write(made, data, None if files.version(made) is None else 0)
    return "a file was written"


def _read(files: FileSystem, made: str, data: bytes) -> str:
    if files.read(made) != data:
        raise TlmError(f"{made}: other bytes came back than were written")
    return "the bytes came back"


def _preconditions(files: FileSystem, made: str, data: bytes) -> str:
    version = files.version(made)
    if version is None:
        return "not needed: a lock of the operating system keeps other runs out"
    for wrong in (0, version + 1):
        try:
            files.write(made, data, wrong)
        except FileExistsError:
            continue
        raise TlmError(
            f"{made}: a write was taken in spite of its precondition: two runs could overwrite "
            "each other; use a bucket of Google Cloud Storage itself"
        )
    files.write(made, data, version)
    return "honored"


def _delete(files: FileSystem, made: str) -> str:
    files.remove(made)
    if files.exists(made):
        raise TlmError(f"{made}: is still there after it was deleted")
    return "the file was deleted"


def _region(path: str) -> Check:
    """Where the bucket is, and whether that is where this machine is."""
    from tpu_tlm.filesystem import cloud_errors, cloud_storage

    try:
        with cloud_errors.translating(path):
            bucket = cloud_storage.client().get_bucket(
                cloud_storage.split(path)[0], retry=cloud_storage.retry(), timeout=30
            )
            location = str(bucket.location or "").lower()
    except OSError as error:
        return Check("region", f"unknown: {filesystem.reason(error)}", False, stops=False)
    here = _machine_region()
    if here is None:
        return Check("region", f"{location or 'unknown'}; this machine's is unknown", True, False)
    if location == here or here.startswith(_MULTI.get(location, "\0")):
        return Check("region", f"{location}, as this machine ({here})", True, False)
    return Check(
        "region",
        f"the bucket is in {location}, this machine in {here}: reading is slow and costs; use a "
        "bucket in the machine's region",
        False,
        stops=False,
    )


def _machine_region() -> str | None:
    """The region of a Google Cloud machine from its metadata server; None elsewhere."""
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/zone", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=1.0) as answer:
            zone = answer.read(200).decode().rpartition("/")[2]
    except (OSError, ValueError):
        return None
    return zone.rpartition("-")[0] or None
