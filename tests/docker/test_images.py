"""The images, built for real and run: process 1, read-only root file system, any user.

On demand, since a build takes minutes and gigabytes: `make image-check`, or
BUILD_IMAGES="cpu gpu" python -m pytest tests/docker/test_images.py
"""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.docker.images import TARGETS, Image, build, first_process, opened
from tests.toy import SIZES, toy_dataset

WANTED = os.environ.get("BUILD_IMAGES", "").split()
pytestmark = [
    pytest.mark.skipif(not WANTED, reason="images are built on demand: make image-check"),
]
ANYBODY = "123456:0"
COMPILERS = ("cc", "gcc", "g++", "c++", "clang", "make", "ld", "as", "nvcc", "cython")
# The user runs it, any number may, and neither can write but where a volume is.
TRAIN = ["train", "--train_dir=/mnt/data", "--run_dir=/mnt/run", "--batch_size=8", "--xla=false"]
TRAIN += [*SIZES, "--warmup_steps=5", "--tensorboard=false"]


@functools.cache
def image(target: str) -> Image:
    if target not in WANTED:
        pytest.skip(f"BUILD_IMAGES does not name {target}")
    return opened(build(target))


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A directory that everybody may write, with a toy dataset in it."""
    toy_dataset(tmp_path / "data")
    tmp_path.chmod(0o777)
    return tmp_path


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_in_it(target: str, storage: Path) -> None:
    found = image(target)
    print(f"\n{target}: {found.size}")
    user, _, group = found.config["User"].partition(":")
    assert int(user) > 0 and group == "0"
    labels = found.config["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert not any("Healthcheck" in key for key in found.config)
    there = [f"command -v {name}" for name in COMPILERS]
    code, said = found.run(["-c", "; ".join(there)], storage, entrypoint=["sh"])
    assert said == "", "a compiler is left"
    script = "touch /opt/venv/x /work/x 2>/dev/null || touch /tmp/x && id -u"
    code, said = found.run(["-c", script], storage, entrypoint=["sh"], user=ANYBODY)
    assert (code, said.strip()) == (0, "123456")


@pytest.mark.parametrize("target", ["cpu", "gpu", "tpu"])
def test_the_doctor(target: str, storage: Path) -> None:
    code, said = image(target).run(["doctor", "--json"], storage, user=ANYBODY)
    facts = json.loads(said)
    assert [f for f in facts["findings"] if f["stops"]] == [] and code == 0, said
    builds = {"cpu": "tensorflow-cpu", "gpu": "tensorflow", "tpu": "tensorflow-tpu"}
    assert builds[target] in facts["versions"]
    script = "from tpu_tlm.tasks.metrics import require_sklearn; require_sklearn()"
    code, said = image(target).run(["-c", script], storage, entrypoint=["python"], user=ANYBODY)
    assert code == 0, said


@pytest.mark.parametrize("target", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("user", ["", ANYBODY])
def test_twenty_steps(target: str, user: str, storage: Path) -> None:
    code, said = image(target).run([*TRAIN, "--steps=20"], storage, user=user)
    assert code == 0 and "20 steps made, 20 in all" in said, said


@pytest.mark.parametrize("target", ["cpu", "gpu", "tpu"])
def test_sigterm_as_process_1(target: str, storage: Path) -> None:
    process = image(target).start([*TRAIN, "--steps=1000000", "--steps_per_call=1"], storage)
    metrics, deadline = storage / "run" / "metrics.jsonl", time.monotonic() + 120
    try:
        while not metrics.exists() or metrics.read_text().count("\n") < 5:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.1)
        os.kill(first_process(process), signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143 and "saved in" in said, said
    step = int(said.rpartition(" at step ")[2].partition(";")[0])
    code, said = image(target).run([*TRAIN, f"--steps={step + 5}"], storage)
    assert code == 0 and f"continuing at step {step}" in said, said


@pytest.mark.parametrize("target", ["cpu", "gpu", "tpu"])
def test_a_mistake_is_one_line(target: str, storage: Path) -> None:
    code, said = image(target).run([*TRAIN, "--steps=ten"], storage)
    assert code == 2 and said.startswith("error:") and "--steps" in said and said.count("\n") == 1


def test_the_worker_of_beam(storage: Path) -> None:
    found = image("beam")
    assert found.config["Entrypoint"] == ["/opt/apache/beam/boot"]
    code, said = found.run(["--id=1"], storage)
    assert code == 0 and "--id=1" in said
    script = "import apache_beam, tpu_tlm, pip; print(apache_beam.__version__)"
    code, said = found.run(["-c", script], storage, entrypoint=["python"])
    assert code == 0 and "2.77.0" in said, said
