"""A TCP connection that carries JSON objects, one per line, with limits on size, depth and time."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import socket
import threading
import time
from typing import Any

# Bytes of one message: before the peer has proved itself, and afterwards.
HANDSHAKE_BYTES = 4096
MESSAGE_BYTES = 1 << 20
MAX_DEPTH = 64


def mac(key: bytes, *parts: str) -> str:
    """Hexadecimal HMAC-SHA-256 of the parts, each preceded by its length."""
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def same(expected: str, given: object) -> bool:
    """Whether two MACs are equal, in constant time; anything but an ASCII string is not."""
    if not isinstance(given, str) or not given.isascii():
        return False
    return hmac.compare_digest(expected, given)


def parse(line: bytes) -> dict[str, Any] | None:
    """The JSON object in a line; None where it is none, or is nested deeper than `MAX_DEPTH`."""
    depth, in_string, escaped = 0, False, False
    for byte in line:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:  # backslash
                escaped = True
            elif byte == 0x22:  # quotation mark
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                return None
        elif byte in b"]}":
            depth -= 1
    try:
        loaded = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return loaded if isinstance(loaded, dict) else None


class Channel:
    """One connection to a peer. After `authenticate`, every message carries a MAC and a counter."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A machine that loses power sends nothing: it counts as gone after 5 + 3 * 3 seconds.
        for name, value in (
            ("TCP_KEEPIDLE", 5),
            ("TCP_KEEPINTVL", 3),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", 14000),
        ):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.socket = sock
        self._buffer = b""
        self._limit = HANDSHAKE_BYTES
        self._sending = threading.Lock()
        self._key: bytes | None = None
        self._mine = self._theirs = ""
        self._sent = self._received = 0

    def authenticate(self, key: bytes, mine: str, theirs: str) -> None:
        """From now on sign and verify each message with `key`; `mine`, `theirs`: the two sides."""
        self._key, self._mine, self._theirs = key, mine, theirs
        self._limit = MESSAGE_BYTES

    def send(self, message: dict[str, Any]) -> bool:
        """Send one message; False when the peer is gone, which the reading side then finds."""
        text = json.dumps(message)
        with self._sending, contextlib.suppress(OSError):
            if self._key is not None:
                text = f"{mac(self._key, self._mine, str(self._sent), text)} {text}"
                self._sent += 1
            self.socket.settimeout(None)
            self.socket.sendall(text.encode() + b"\n")
            return True
        return False

    def receive(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next message.

        `timeout`: seconds for the whole message, however slowly its bytes arrive. None at the end
        of the connection, on a time-out, and for anything that is not a valid message.
        """
        line = self._line(None if timeout is None else time.monotonic() + timeout)
        if line is None:
            return None
        if self._key is not None:
            found, _, line = line.partition(b" ")
            text = line.decode("utf-8", "replace")
            expected = mac(self._key, self._theirs, str(self._received), text)
            if not same(expected, found.decode("ascii", "replace")):
                return None
            self._received += 1
        return parse(line)

    def _line(self, deadline: float | None) -> bytes | None:
        """Bytes up to the next line end; None at the end, on a time-out and above the limit."""
        while True:
            line, end, rest = self._buffer.partition(b"\n")
            if len(line) > self._limit:
                return None
            if end:
                self._buffer = rest
                return line
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            try:
                self.socket.settimeout(left)
                received = self.socket.recv(65536)
            except OSError:
                return None
            if not received:
                return None
            self._buffer += received

    def closed(self) -> bool:
        """Whether the peer hung up and nothing is left to read."""
        try:
            self.socket.settimeout(None)  # with a time-out Python would wait for data first
            return self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
