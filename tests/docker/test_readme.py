"""The commands of docker/README.md, with a program in the place of Docker's."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.docker.images import ROOT

README = (ROOT / "docker" / "README.md").read_text()


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh"])
def test_from_text_to_a_model_in_a_directory_with_a_space(shell: str, tmp_path: Path) -> None:
    """zsh does not split what a variable holds, and the others split paths in it."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (block,) = re.findall(r"^    mkdir -p work/text.*?\n\n", README, re.M | re.S)
    here = tmp_path / "my files"
    here.mkdir()
    (here / "my.txt").write_text("text")
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    log = shlex.quote(str(tmp_path / "log"))
    docker.write_text(f'#!/bin/sh\nprintf "%s|" "$@" >> {log}\necho >> {log}\n')
    docker.chmod(0o755)
    environ = os.environ | {"PATH": f"{docker.parent}:{os.environ['PATH']}"}
    done = subprocess.run([shell, "-ec", textwrap.dedent(block)], cwd=here, env=environ)
    assert done.returncode == 0 and (here / "work" / "text" / "my.txt").exists()
    user = f"{os.getuid()}:{os.getgid()}"
    head = f"run|--rm|--user|{user}|-v|{here}/work:/work|tpu-tlm:cpu|"
    lines = (tmp_path / "log").read_text().splitlines()
    assert all(line.startswith(head) for line in lines), lines
    commands = [line.removeprefix(head).partition("|")[0] for line in lines]
    assert commands == ["vocab", "preprocess", "train"]
