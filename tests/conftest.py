"""Fixtures for the tests of several rooms."""

from __future__ import annotations

import signal

from tests.bucket import bucket
from tests.toy_runs import contract_run, toy_corpus, toy_run

__all__ = ["bucket", "contract_run", "toy_corpus", "toy_run"]

# A shell without job control, or nohup, starts its jobs with these signals ignored, and so would
# be every process that a test starts and interrupts.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)
