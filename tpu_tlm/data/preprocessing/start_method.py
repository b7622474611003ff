"""How worker processes are started: from a small server process, never by forking one that may run threads."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def prepare(modules: Sequence[str]) -> None:
    """Start the server now: it imports the modules while this process goes on, and all workers then share their memory."""
    if METHOD == "forkserver":
        from multiprocessing import forkserver

        multiprocessing.set_forkserver_preload(list(modules))
        forkserver.ensure_running()
