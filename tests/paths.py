"""Directories that tests read: the project's root and the data files kept beside the tests."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA_FILES = ROOT / "tests" / "data_files"
