"""Building and running the images of `docker/` without an image registry or a Docker engine.

buildah builds on stand-ins for the base images (scripts/base_image.sh). A container is a process in
mount and process namespaces of its own: process 1, on a read-only root file system.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
TARGETS = ("cpu", "gpu", "tpu", "beam")
STORE = Path(os.environ.get("IMAGE_STORE", "/var/tmp/tpu-tlm-images"))

# $1: the image's root directory; $2: user; $3: directory laid at /data; then the command.
_CONTAINER = """
set -e
root=$1 user=$2 data=$3; shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
mount --bind "$data" "$root/mnt"
mount -t tmpfs tmpfs "$root/tmp"; chmod 1777 "$root/tmp"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount --bind /sys "$root/sys"
mount -o remount,bind,ro "$root"
cd "$root"
exec chroot --userspec="$user" "$root" "$@"
"""


def buildah(*arguments: str, timeout: float = 3600) -> str:
    """Standard output of a buildah command on our own store; pytest fails where it fails."""
    if shutil.which("buildah") is None or os.geteuid() != 0:
        pytest.skip("images are built by root with buildah: apt-get install buildah mmdebstrap")
    store = ["--root", f"{STORE}/root", "--runroot", f"{STORE}/run", "--storage-driver", "overlay"]
    command = ["buildah", *store, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-4000:])
    return done.stdout


def build(target: str) -> str:
    """Build a target of the Dockerfile on stand-ins for its base images; the image's name."""
    STORE.mkdir(parents=True, exist_ok=True)
    names = buildah("images", "--format", "{{.Name}}:{{.Tag}}").split()
    beam = argument("BEAM_IMAGE").replace("${BEAM_VERSION}", argument("BEAM_VERSION"))
    # A name without a registry is looked for among the images of this machine first.
    bases = f"localhost/{argument('PYTHON_IMAGE')}", f"localhost/{beam}"
    if not set(bases) <= set(names):
        script = ["bash", "scripts/base_image.sh", *bases]
        environ = os.environ | {"STORE": str(STORE)}
        done = subprocess.run(script, cwd=ROOT, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
    registries = STORE / "registries.conf"
    registries.write_text("unqualified-search-registries = []\n")
    where = ["--isolation", "chroot", "--network", "host", "--pull-never", "--layers"]
    where += ["--registries-conf", str(registries), "-v", "/etc/ssl/certs:/etc/ssl/certs:ro"]
    files = ["-f", str(DOCKERFILE), "--ignorefile", f"{DOCKERFILE}.dockerignore"]
    name = f"localhost/tpu-tlm:{target}"
    buildah("build", *where, *files, "--target", target, "-t", name, str(ROOT))
    return name


def argument(name: str) -> str:
    """Default of an ARG of the Dockerfile."""
    lines = DOCKERFILE.read_text().splitlines()
    (value,) = [line.partition("=")[2] for line in lines if line.startswith(f"ARG {name}=")]
    return value


@dataclass
class Image:
    """A built image, its files mounted at `root`."""

    name: str
    config: dict[str, Any]
    root: str
    size: str

    def start(
        self, arguments: list[str], data: Path, user: str = "", entrypoint: list[str] | None = None
    ) -> subprocess.Popen[str]:
        """Run the image with these arguments (after its entrypoint), `data` mounted at /mnt.

        user: UID:GID in the place of the image's. The process is process 1 of its namespace.
        """
        command = [*(entrypoint or self.config["Entrypoint"]), *arguments]
        environ = ["env", "-i", *self.config["Env"]]
        inner = ["sh", "-c", _CONTAINER, "sh", self.root, user or self.config["User"], str(data)]
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*namespaces, *inner, *environ, *command], **pipes)

    def run(self, arguments: list[str], data: Path, **options: Any) -> tuple[int, str]:
        """Exit code and output of the image run to its end."""
        process = self.start(arguments, data, **options)
        output, _ = process.communicate(timeout=600)
        return process.returncode, output


def opened(name: str) -> Image:
    """The image, mounted."""
    config = json.loads(buildah("inspect", "--type", "image", name))["OCIv1"]["config"]
    container = buildah("from", "--pull-never", name).strip()
    root = buildah("mount", container).strip()
    images = json.loads(buildah("images", "--json"))
    (found,) = [image for image in images if name in (image["names"] or [])]
    return Image(name, config, root, found["size"])


def first_process(process: subprocess.Popen[str]) -> int:
    """Number, here, of the process that is process 1 inside."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return int(children.read_text().split()[0])
