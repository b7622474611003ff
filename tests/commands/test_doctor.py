"""The doctor names what is wrong with the one command that fixes it, and survives a TensorFlow
that aborts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_modules import doctor
from tests.devices.test_installation import CPU, PAIR, PLAIN, TPU, one, without
from tests.paths import ROOT
from tpu_tlm.devices import installation, probe
from tpu_tlm.devices.installation import Machine
from tpu_tlm.devices.probe import Seen

GOOD = Seen("2.20.0", ["CPU"], ["file", "gs", "ram"])
AGAIN = "pip install --force-reinstall --no-deps"


def test_a_good_machine() -> None:
    assert doctor.findings(CPU, PLAIN, GOOD, (3, 11)) == []
    text = doctor.report(CPU, PLAIN, GOOD, [])
    assert "tensorflow-cpu 2.20.0" in text and "gs://" in text
    assert text.endswith("ready to train")


def test_no_gs() -> None:
    seen = Seen("2.20.0", ["CPU"], ["file"])
    finding = one(doctor.seen_findings(CPU, PLAIN, seen, (3, 12)))
    assert (finding.what, finding.fix) == (
        "TensorFlow cannot open gs:// files",
        "pip install tensorflow-io-gcs-filesystem",
    )
    assert not finding.stops
    assert "tensorflow-io" not in one(doctor.seen_findings(CPU, PLAIN, seen, (3, 13))).fix, (
        "it has no wheel for 3.13"
    )


def test_packages_that_cannot_be_imported() -> None:
    text = one(
        doctor.seen_findings(
            CPU,
            PLAIN,
            Seen("2.20.0", ["CPU"], ["gs"], {"tensorflow_text": "NotFoundError: x"}),
            (3, 11),
        )
    )
    assert text.fix == f"{AGAIN} tensorflow-text==2.20.1"
    assert text.stops
    bpe = one(
        doctor.seen_findings(
            CPU, PLAIN, Seen("2.20.0", ["CPU"], ["gs"], {"fastBPE": "ImportError: y"}), (3, 11)
        )
    )
    assert bpe.fix.startswith("pip uninstall -y fastBPE && ")
    assert not bpe.stops


def test_a_gpu_that_tensorflow_does_not_see() -> None:
    versions, here = without(CPU, "tensorflow-cpu") | {"tensorflow": "2.20.0"}, Machine(nvidia=True)
    assert "[and-cuda]" in one(doctor.findings(versions, here, GOOD, (3, 11))).fix
    assert (
        doctor.findings(
            versions, here, Seen("2.20.0", ["CPU", "GPU: NVIDIA H200"], ["gs"]), (3, 11)
        )
        == []
    )


def test_an_import_that_fails_is_explained_by_the_versions_where_they_can() -> None:
    seen = Seen(failure="was ended by signal 6 (SIGABRT): F something")
    finding = one(doctor.findings(TPU | {"libtpu": "0.0.52"}, PLAIN, seen, (3, 11)))
    assert "libtpu 0.0.52 is too new" in finding.what
    unexplained = one(doctor.findings(CPU, PLAIN, seen, (3, 11)))
    assert unexplained.what == "importing TensorFlow was ended by signal 6 (SIGABRT): F something"
    assert unexplained.fix == f"{AGAIN} tensorflow-cpu==2.20.0"


def test_what_stops_training_comes_first_and_is_counted() -> None:
    found = doctor.findings(
        without(TPU, "fastBPE") | {"libtpu": "0.0.40", "keras": "3.0.0"}, PLAIN, GOOD, (3, 11)
    )
    assert [finding.stops for finding in found] == [True, True, False]
    text = doctor.report(TPU, PLAIN, GOOD, found)
    assert text.endswith("2 problems to fix before training")
    assert "  fix:".ljust(11) + PAIR in text.splitlines(), (
        "a command stands on a line of its own, whole"
    )


def fake_tensorflow(directory: Path, body: str) -> dict[str, str]:
    """An environment in which `import tensorflow` runs this code."""
    package = directory / "tensorflow"
    package.mkdir()
    (package / "__init__.py").write_text(body)
    return dict(os.environ) | {"PYTHONPATH": f"{directory}{os.pathsep}{ROOT}"}


def test_an_abort_is_reported(tmp_path: Path) -> None:
    body = (
        "import os, sys\n"
        "print('some log line', file=sys.stderr)\n"
        "print('2026-01-01: F lib.inc:12] Op not available in this library.', file=sys.stderr)\n"
        "print('    @ 0x7f stack', file=sys.stderr, flush=True)\n"
        "os.abort()\n"
    )
    seen = probe.in_child(fake_tensorflow(tmp_path, body))
    assert seen.failure == (
        "was ended by signal 6 (SIGABRT): 2026-01-01: F lib.inc:12] Op not available in this "
        "library."
    )


def test_an_exception_is_reported(tmp_path: Path) -> None:
    seen = probe.in_child(fake_tensorflow(tmp_path, "raise ImportError('libcudart is missing')"))
    assert seen.failure == "ended with exit code 1: ImportError: libcudart is missing"


def test_a_hang_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS", 1)
    assert (
        probe.in_child(fake_tensorflow(tmp_path, "import time; time.sleep(60)")).failure
        == "did not end within 1 seconds"
    )


def run(environ: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tpu_tlm.doctor", *argv],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_does_not_crash_with_a_tensorflow_that_aborts(tmp_path: Path) -> None:
    done = run(fake_tensorflow(tmp_path, "import os; os.abort()"))
    assert done.returncode == 1
    assert "PROBLEM    importing TensorFlow was ended by signal 6 (SIGABRT)" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_command_on_this_machine() -> None:
    done = run(dict(os.environ) | {"PYTHONPATH": str(ROOT)}, "--json")
    report = json.loads(done.stdout)
    assert report["versions"] == installation.installed()
    assert report["seen"]["version"].startswith("2.")
    assert any(device.startswith("CPU") for device in report["seen"]["devices"])
    assert done.returncode == (1 if any(finding["stops"] for finding in report["findings"]) else 0)


def test_another_keras_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "unusable_backend", lambda environ: "KERAS_BACKEND=jax")
    finding = one(doctor.findings(CPU, PLAIN, GOOD, (3, 11)))
    assert "KERAS_BACKEND=jax" in finding.what and "KERAS_BACKEND" in finding.fix and finding.stops
