"""What can be said of the Dockerfile without building it."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.docker.images import DOCKERFILE, ROOT, TARGETS, argument
from tests.manifests.render import tool

TEXT = DOCKERFILE.read_text()
INSTRUCTIONS = [
    line.strip() for line in TEXT.replace("\\\n", " ").splitlines() if not line.startswith("#")
]


def stages() -> dict[str, list[str]]:
    """Name of a stage -> its instructions."""
    found: dict[str, list[str]] = {}
    for line in INSTRUCTIONS:
        if line.startswith("FROM "):
            current = found.setdefault(line.rpartition(" AS ")[2], [line])
        elif line and found:
            current.append(line)
    return found


def with_parents(name: str) -> list[str]:
    """The instructions of a stage and of the stages that it is built on."""
    own = stages()[name]
    parent = own[0].split()[1]
    return (with_parents(parent) if parent in stages() else []) + own


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([tool("hadolint"), str(DOCKERFILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_linter_sees_a_fault() -> None:
    text = TEXT.replace("USER 1000:0", "USER root\nRUN cd /tmp")
    command = [tool("hadolint"), "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 1 and "DL3002" in done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_each_target(target: str) -> None:
    lines = with_parents(target)
    users = [line for line in lines if line.startswith("USER")]
    assert users and re.fullmatch(r"USER [1-9]\d*:\d+", users[-1]), "a number, and not root's"
    assert any("org.opencontainers.image.version" in line for line in lines)
    assert not any(line.startswith("HEALTHCHECK") for line in lines)
    # What runs comes from a stage of its own, so that what built it stays behind.
    assert f"COPY --from=build-{target} /opt/venv /opt/venv" in lines
    assert not any(line.startswith("RUN") and "install" in line for line in lines)
    assert sum(line.startswith("ENTRYPOINT [") for line in lines) == 1 + (target == "beam")


def test_a_build_without_a_target_is_that_for_processors() -> None:
    assert list(stages())[-1] == "cpu"


def test_extras_and_versions_are_those_of_the_project() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    extras = re.findall(r"whl\)\[(\w+),\$\{EXTRAS\}\]", TEXT)
    assert extras == ["cpu", "gpu", "tpu"]
    # The fine-tuning Job of manifests/ runs in these images, and ends at once without scikit-learn.
    assert argument("EXTRAS") == "finetune"
    for extra in (*extras, argument("EXTRAS")):
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), extra
    (version,) = re.findall(r'^version = "(.*)"', pyproject, re.MULTILINE)
    assert argument("VERSION") == version
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    for pin in re.findall(r"[\w-]+==[\d.]+\d", TEXT):
        assert pin in constraints
    assert "PIP_CONSTRAINT=/src/constraints.txt" in TEXT
    beam = (ROOT / "docker" / "constraints-beam.txt").read_text().splitlines()
    assert f"apache-beam=={argument('BEAM_VERSION')}" in beam
    assert not any(line.startswith("tensorflow") for line in beam)
    supported = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', pyproject)
    assert supported is not None
    for name in ("PYTHON_IMAGE", "BEAM_IMAGE"):
        minor = re.search(r"python(?::|)3\.(\d+)", argument(name))
        assert minor is not None
        assert int(supported[1]) <= int(minor[1]) < int(supported[2])


def test_the_build_is_given_what_it_copies_and_nothing_else() -> None:
    lines = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = set()
    for line in INSTRUCTIONS:
        if line.startswith("COPY ") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    assert lines[1] == "*" and allowed == copied
    assert all((ROOT / name).exists() for name in copied)


def test_no_host_of_a_registry_is_named() -> None:
    for name in ("PYTHON_IMAGE", "BEAM_IMAGE"):
        assert "." not in argument(name).partition("/")[0] or "/" not in argument(name)
