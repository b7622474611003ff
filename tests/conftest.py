"""Fixtures for the tests of several rooms."""

from __future__ import annotations

from tests.bucket import bucket
from tests.toy_runs import contract_run, toy_corpus, toy_run

__all__ = ["bucket", "contract_run", "toy_corpus", "toy_run"]
