"""Causes of failures of Google Cloud Storage, and how long a call is tried again."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any

from tpu_tlm.errors import UsageError
from tpu_tlm.filesystem.errors import StoreError

DEADLINE = "TPU_TLM_STORAGE_DEADLINE"
_SECONDS = 300.0


def deadline() -> float:
    """Seconds for which a failing call is tried again; from the environment, else 300."""
    text = os.environ.get(DEADLINE, "")
    try:
        seconds = float(text) if text else _SECONDS
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e6:
        raise UsageError(f"{DEADLINE}={text}: must be a number of seconds above 0")
    return seconds


def retry() -> Any:
    """The policy for one call: exponential backoff with jitter, from half a second to 30."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_delay(initial=0.5, maximum=30.0, multiplier=2.0).with_timeout(
        deadline()
    )


def is_precondition(error: BaseException) -> bool:
    """Whether a generation was not the expected one (HTTP 412)."""
    return _code(error) == 412


def _code(error: Any) -> int | None:
    """The HTTP status of an answer; None where there was none."""
    response = getattr(error, "response", None)
    code = getattr(error, "code", None) or getattr(response, "status_code", None)
    return None if code is None else int(code)


@contextlib.contextmanager
def translating(path: str) -> Iterator[None]:
    """Raise the client's exceptions about gs://BUCKET/OBJECT as `OSError`s that say the cause."""
    try:
        yield
    except Exception as error:
        module = type(error).__module__
        if not module.startswith(("google.", "requests", "urllib3", "http.")):
            raise
        raise _translated(path, error) from None


def _translated(path: str, error: Exception) -> OSError:
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth

    bucket = path.partition("://")[2].partition("/")[0]
    if isinstance(error, api.RetryError):
        last = error.cause
        reason = (
            f"the service answers {_code(last)} ({_text(last)})"
            if _code(last)
            else f"network: {_text(last)}"
        )
        return StoreError(
            errno.ETIMEDOUT,
            f"no success within {deadline():g} s ({DEADLINE}): {reason}; try again later",
        )
    if isinstance(error, auth.DefaultCredentialsError):
        return StoreError(
            errno.EACCES,
            "permission: no Google Cloud credentials were found: run `gcloud auth "
            "application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
        )
    if isinstance(error, auth.RefreshError):
        return StoreError(errno.EACCES, f"permission: credentials were refused: {_text(error)}")
    code, text = _code(error), _text(error)
    if code == 404:
        if "bucket does not exist" in text.lower():
            return StoreError(
                errno.ENOENT, f"not found: there is no bucket {bucket!r}: create it first"
            )
        return FileNotFoundError(errno.ENOENT, "No such object")
    if code in (400, 403, 412) and "resourcelocations" in text.lower().replace(".", ""):
        return StoreError(
            errno.EACCES, f"region: the organization's policy forbids its location: {text}"
        )
    if code in (402, 403) and any(
        word in text.lower() for word in ("billing", "accountdisabled", "userproject")
    ):
        return StoreError(
            errno.EACCES,
            f"billing: the project of bucket {bucket!r} has none, or it is disabled: {text}",
        )
    if code in (401, 403):
        return StoreError(
            errno.EACCES,
            f"permission: the account may not do this in bucket {bucket!r} "
            f"(roles/storage.objectAdmin has all that is needed): {text}",
        )
    if code == 412:
        return FileExistsError(errno.EEXIST, "Changed by another process meanwhile")
    if code is None:
        return StoreError(errno.EIO, f"network: {text}")
    return StoreError(errno.EIO, f"the service answered {code}: {text}")


def _text(error: Any) -> str:
    """The service's own words where it said any, without the request."""
    with contextlib.suppress(Exception):
        told = error.response.json()["error"]["message"]
        return " ".join(str(told).split())[:300]
    text = " ".join(str(getattr(error, "message", "") or error).split())
    return text[:300] or type(error).__name__
