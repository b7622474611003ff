"""Fixtures of several rooms, marks from what tests cost, settings of all processes."""

from __future__ import annotations

import json
import os
import signal
from collections import defaultdict

import pytest

from tests.bucket import bucket
from tests.paths import ROOT
from tests.toy_runs import contract_run, toy_corpus, toy_run
from tpu_tlm.config.imports import import_quickly

# Their assertions speak for tests that call them.
pytest.register_assert_rewrite("tests.manifests.checks")

__all__ = ["bucket", "contract_run", "toy_corpus", "toy_run"]

# As commands do. Before a file of tests imports TensorFlow.
import_quickly()

# A shell without job control, or nohup, starts its jobs with these signals ignored, and so would
# be every process that a test starts and interrupts.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

# XLA compiles a toy step for seconds and runs it for milliseconds: LLVM need not optimize it.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

# Seconds of the costlier tests on two idle cores, as `python -m tests.costs LOG` wrote them.
COSTS = ROOT / "tests" / "costs.json"
# A test of so many seconds is `slow`.
SLOW = 0.4


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what the recorded costs say is slow; begin with the costliest files.

    With `--no-loadscope-reorder`, so that no long file is left for the end on one of the workers.
    """
    costs: dict[str, float] = json.loads(COSTS.read_text()) if COSTS.exists() else {}
    of_file: dict[str, float] = defaultdict(float)
    for item in items:
        cost = costs.get(item.nodeid, 0.0)
        of_file[item.nodeid.split("::")[0]] += cost
        if cost >= SLOW or item.get_closest_marker("long"):
            item.add_marker("slow")
    items.sort(key=lambda item: -of_file[item.nodeid.split("::")[0]])
