"""Mutual proof of the job token between the chief and a worker, before either believes the other.

The chief sends a random challenge; the worker answers with its number, a digest of the job's
addresses, a random number of its own, and an HMAC over all of it; the chief proves the token in
turn. A recorded answer is useless for another challenge, and every later message is signed with a
key made from both random numbers.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tpu_tlm.distributed.channel import Channel, mac, same
from tpu_tlm.distributed.tf_config import Cluster
from tpu_tlm.errors import UsageError

TOKEN = "TPU_TLM_JOB_TOKEN"
TOKEN_FILE = "TPU_TLM_JOB_TOKEN_FILE"
_SHORTEST_TOKEN = 16
# Seconds for the whole handshake of one connection.
HANDSHAKE_SECONDS = 10.0


@dataclass(frozen=True)
class Trust:
    """What the peers of a job share. `key`: from the job token, empty where there is none.

    `loopback`: whether connections from other machines are not taken at all.
    """

    key: bytes
    loopback: bool


def job_token(environ: Mapping[str, str]) -> str:
    """The job token of the environment, empty where there is none.

    Raises `UsageError` where its file cannot be read or it has fewer than 16 characters.
    """
    token, source = environ.get(TOKEN, ""), TOKEN
    if not token and (path := environ.get(TOKEN_FILE)):
        source = f"{TOKEN_FILE}={path}"
        try:
            with open(path, encoding="utf-8") as stream:
                token = stream.read(4096).strip()
        except (OSError, ValueError) as error:
            raise UsageError(f"{source}: cannot be read: {error}") from None
        if not token:
            raise UsageError(f"{source}: the file is empty")
    if token and len(token) < _SHORTEST_TOKEN:
        raise UsageError(
            f"{source}: has {len(token)} characters, needs at least {_SHORTEST_TOKEN}; "
            "make one with: openssl rand -hex 32"
        )
    return token


def _is_loopback(address: str) -> bool:
    try:
        found = {info[4][0] for info in socket.getaddrinfo(address, None)}
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(str(a)).is_loopback for a in found)


def trust_of(cluster: Cluster, environ: Mapping[str, str], trust_network: bool) -> Trust:
    """How the peers of this job prove themselves.

    Raises `UsageError` where the job spans machines, has no token, and the network is not trusted.
    """
    token = job_token(environ)
    if token or trust_network:
        return Trust(token.encode(), loopback=False)
    for host in range(len(cluster.addresses)):
        if not _is_loopback(cluster.endpoint(host)[0]):
            raise UsageError(
                f"TF_CONFIG names {cluster.title(host)}, another machine, and there is no job "
                f"token: set {TOKEN} to the same secret for all workers (openssl rand -hex 32), "
                "or give --trust_network where nobody else reaches their ports"
            )
    return Trust(b"", loopback=True)


def job_digest(cluster: Cluster) -> str:
    """SHA-256 of the job's addresses, in order."""
    return hashlib.sha256(json.dumps(list(cluster.addresses)).encode()).hexdigest()


def accept(channel: Channel, cluster: Cluster, trust: Trust) -> int | None:
    """The chief's side: the number of the worker that connected; None for anything else.

    A worker whose TF_CONFIG names other addresses is told so, once it has proved the token.
    """
    challenge = secrets.token_hex(16)
    channel.send({"challenge": challenge})
    hello = channel.receive(HANDSHAKE_SECONDS) or {}
    host, job, nonce = hello.get("hello"), hello.get("job"), hello.get("nonce")
    if not isinstance(host, int) or isinstance(host, bool):
        return None
    if not 0 < host < len(cluster.addresses):
        return None
    if not isinstance(job, str) or not isinstance(nonce, str):
        return None
    expected = mac(trust.key, "worker", challenge, nonce, str(host), job)
    if not same(expected, hello.get("proof")):
        channel.send({"refused": "token"})
        return None
    proof = mac(trust.key, "chief", nonce, challenge)
    channel.send({"proof": proof})
    channel.authenticate(mac(trust.key, "session", challenge, nonce).encode(), "chief", "worker")
    if job != job_digest(cluster):
        channel.send(
            {
                "no": f"TF_CONFIG of {cluster.title(host)} names other addresses than the "
                "chief's; all must be the same"
            }
        )
        return None
    return host


def introduce(channel: Channel, cluster: Cluster, trust: Trust) -> str:
    """A worker's side: prove the token and have the chief prove it.

    Returns an empty string, or why what answers is not this job's chief.
    """
    first: dict[str, Any] = channel.receive(HANDSHAKE_SECONDS) or {}
    challenge = first.get("challenge")
    if not isinstance(challenge, str):
        return "something else answers there"
    nonce, job = secrets.token_hex(16), job_digest(cluster)
    proof = mac(trust.key, "worker", challenge, nonce, str(cluster.host), job)
    channel.send({"hello": cluster.host, "job": job, "nonce": nonce, "proof": proof})
    answer = channel.receive(HANDSHAKE_SECONDS) or {}
    if answer.get("refused") == "token":
        return f"the chief does not accept this worker's {TOKEN}"
    if not same(mac(trust.key, "chief", nonce, challenge), answer.get("proof")):
        return "what answers there does not know the job token"
    channel.authenticate(mac(trust.key, "session", challenge, nonce).encode(), "worker", "chief")
    return ""


def environment_trust(cluster: Cluster, trust_network: bool) -> Trust:
    """`trust_of` in this process's environment."""
    return trust_of(cluster, os.environ, trust_network)
