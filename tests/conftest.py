"""Fixtures that several rooms' tests use."""

from __future__ import annotations

from tests.bucket import bucket

__all__ = ["bucket"]
