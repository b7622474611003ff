"""The site: `make docs` writes docs/_build/html. Warnings are errors."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

import tpu_tlm  # noqa: E402

project = "tpu_tlm"
author = "The tpu_tlm maintainers"
release = version = tpu_tlm.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "tables"]
exclude_patterns = ["_build", "_ext"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
# Docstrings are plain text; what stands in backticks is code.
default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = f"tpu_tlm {version}"
html_static_path: list[str] = []
html_show_sourcelink = False
html_copy_source = False

# Pages link to files of the repository by their path; on the site they lead to its host.
REPOSITORY = "https://github.com/tpu-tlm/tpu-tlm/blob/main"
_OUTSIDE = re.compile(r"\]\((?:\.\./)+([^)\s]+)\)")


def _link_to_repository(app: object, name: str, source: list[str]) -> None:
    """Turn links that leave docs/ into links to the repository."""
    here = (ROOT / "docs" / name).parent

    def replaced(match: re.Match[str]) -> str:
        path, _, anchor = match[0][2:-1].partition("#")
        there = (here / path).resolve()
        if there.is_relative_to(ROOT / "docs"):
            return match[0]
        return f"]({REPOSITORY}/{there.relative_to(ROOT)}{'#' + anchor if anchor else ''})"

    source[0] = _OUTSIDE.sub(replaced, source[0])


def setup(app: object) -> None:
    """Connect the hooks of this site."""
    app.connect("source-read", _link_to_repository)  # type: ignore[attr-defined]
