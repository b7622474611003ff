"""The documentation's site: builds without a warning, has no broken link, and its search works."""

from __future__ import annotations

import functools
import html.parser
import http.server
import importlib.util
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.paths import ROOT
from tpu_tlm.config.command_table import COMMANDS
from tpu_tlm.config.options import options_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


class _Page(html.parser.HTMLParser):
    """The ids and the targets of links, pictures, styles and scripts of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.targets.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    for name in ("sphinx", "furo", "myst_parser"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
        + ["-d", str(out / "doctrees"), str(ROOT / "docs"), str(out / "html")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, _Page]:
    """Path below the site -> page."""
    found = {}
    for path in sorted(site.rglob("*.html")):
        page = found[str(path.relative_to(site))] = _Page()
        page.feed(path.read_text(encoding="utf-8"))
    return found


def test_no_link_is_broken(site: Path, pages: dict[str, _Page]) -> None:
    assert len(pages) > 40
    for name, page in pages.items():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                repository = "https://github.com/tpu-tlm/tpu-tlm/blob/main/"
                if target.startswith(repository):
                    path = target.removeprefix(repository).partition("#")[0]
                    assert (ROOT / path).exists(), f"{name}: {target}"
                continue
            where = (site / name).parent / unquote(parts.path) if parts.path else site / name
            assert where.exists(), f"{name}: {target}"
            if parts.fragment and where.suffix == ".html":
                known = pages[str(where.resolve().relative_to(site.resolve()))].ids
                assert unquote(parts.fragment) in known, f"{name}: {target}"


def test_every_page_of_docs_is_in_the_navigation(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    for path in (ROOT / "docs").rglob("*.md"):
        name = path.relative_to(ROOT / "docs").with_suffix(".html")
        assert f'href="{name}"' in start or name.name == "index.html", name


def test_the_reference_has_every_option_and_function(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "reference/options.html").read_text(encoding="utf-8"))
    for command, entry in COMMANDS.items():
        assert f"tpu-tlm {command}" in text, command
        for name in options_of(entry.groups):
            assert name in text or name.upper() in text, f"{command} --{name}"
    import tpu_tlm

    python = (site / "reference/python.html").read_text(encoding="utf-8")
    for name in set(tpu_tlm.__all__) - {"__version__", "models", "objectives"}:
        assert f'id="tpu_tlm.{name}"' in python or f"tpu_tlm.config.{name}" in python, name


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)")
def test_it_opens_in_a_browser_and_the_search_finds(site: Path, tmp_path: Path) -> None:
    handler = functools.partial(
        type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}),
        directory=str(site),
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        start = _opened(f"{base}/index.html", tmp_path)
        found = _opened(f"{base}/search.html?q=preemption", tmp_path)
        nothing = _opened(f"{base}/search.html?q=xylophone", tmp_path)
        server.shutdown()
    assert "tpu-tlm quickstart" in start and 'href="tutorial.html"' in start
    results = found[found.index('id="search-results"') :]
    assert re.search(r'href="workers\.html[^"]*"', results), results[:2000]
    assert "did not match any documents" in nothing


def _opened(url: str, tmp_path: Path) -> str:
    """The document after its scripts ran."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        + [f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=20000", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
