"""What judges the manifests must be there in CI, where a skipped test would be taken for a pass."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.manifests import render


@pytest.mark.parametrize(
    ("required", "raised"), [(False, pytest.skip.Exception), (True, pytest.fail.Exception)]
)
def test_what_is_missing_is_skipped_or_fails(
    required: bool, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "REQUIRED", required)
    for find in (render.tool, render.needs):
        with pytest.raises(raised, match="no kubectl_of_nobody beside this Python"):
            find("kubectl_of_nobody")


@pytest.mark.parametrize("required", [False, True])
def test_a_file_that_renders_when_it_is_collected(required: bool) -> None:
    """Without kubectl it is skipped whole, or an error; the exit code is that of CI."""
    text = (
        "import shutil, sys, pytest\n"
        "shutil.which = lambda name, **how: None\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '--collect-only', *sys.argv[1:]]))"
    )
    environ = {"REQUIRE_MANIFEST_TOOLS": "1" if required else "", "PYTHONPATH": str(render.ROOT)}
    files = [str(render.ROOT / "tests" / "manifests" / "test_behaviour.py")]
    done = subprocess.run(
        [sys.executable, "-c", text, *files],
        cwd=render.ROOT,
        env=environ,
        capture_output=True,
        text=True,
    )
    found = pytest.ExitCode.INTERRUPTED if required else pytest.ExitCode.NO_TESTS_COLLECTED
    assert done.returncode == found, done.stdout
    assert "scripts/setup_manifests.sh" in done.stdout


def test_ci_requires_them() -> None:
    assert "\nexport REQUIRE_MANIFEST_TOOLS=1\n" in (render.ROOT / ".ci" / "run").read_text()
