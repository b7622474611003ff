"""Check that all workers of a job were started with the same options and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tpu_tlm import __version__
from tpu_tlm.config import cli
from tpu_tlm.config.options import options_of
from tpu_tlm.distributed.peers import PeerGroup
from tpu_tlm.errors import UsageError


def check_same(peers: PeerGroup, parts: Sequence[Any], fingerprints: Mapping[str, str]) -> None:
    """Raise `UsageError` on every worker when one has other options or data than the chief, or
    another version of this package."""
    # Paths and reading options may differ between machines; the fingerprints of the data may not.
    table = options_of([type(part) for part in parts])
    values = {
        f"--{name}": value
        for name, value in cli.as_values(*parts).items()
        if not table[name].declared.may_differ
    }
    own = {**values, **fingerprints, "version of tpu_tlm": __version__}
    workers = peers.gather(own)
    for host, other in enumerate(workers):
        if other != workers[0]:
            name = next(n for n in {**workers[0], **other} if workers[0].get(n) != other.get(n))
            chief = workers[0].get(name)
            raise UsageError(
                f"{peers.title(host)} was started with another {name} than {peers.title(0)}:"
                f" {other.get(name)}, not {chief}; all workers need the same command and the same"
                " data"
            )
