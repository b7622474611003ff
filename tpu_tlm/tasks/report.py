"""The report of a run as one HTML page without any other file."""

from __future__ import annotations

from typing import Any


def page(report: dict[str, Any]) -> str:
    """HTML of a report's JSON values."""
    return f"<html><body>{report['task']}</body></html>"
