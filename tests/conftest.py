"""Fixtures for all tests."""

from tests.toy_runs import contract_run, toy_corpus, toy_run

__all__ = ["contract_run", "toy_corpus", "toy_run"]
