"""The runner compares, refuses and tells the truth about what ran; with a JAX at hand, all
programs agree on the losses.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import step_export, step_on_gpu
from benchmarks.gpu.exported import Argument, Exported, Manifest, digest, read, write
from benchmarks.gpu.program import Program, Report, plain_only, serve
from benchmarks.harness import ROOT, Result
from benchmarks.step_on_gpu import (
    chosen,
    furthest,
    heading,
    judge,
    loss_table,
    same_device,
    speed_table,
)
from tpu_tlm.config import ModelConfig
from tpu_tlm.errors import TlmError, UsageError

OURS, JAX, TORCH = (step_on_gpu.PROGRAMS[key][0] for key in ("ours", "jax", "torch"))
HERE = "tests.benchmarks.test_step_on_gpu"


def manifest(**changes: object) -> Manifest:
    values = {"head/bias": np.zeros(3, np.float32)}
    plain = Manifest(
        arguments=(
            Argument("value", "head/bias", (3,), "float32", 0),
            Argument("batch", "x", (2, 4), "int32"),
        ),
        results=("value/head/bias", "loss", "weight"),
        model=dataclasses.asdict(ModelConfig(dropout=0.0)),
        optimizer={},
        vocab_size=3,
        pad_id=0,
        seed=0,
        rows=2,
        length=4,
        precision="bfloat16",
        flops=3e12,
        losses=(8.0, 4.0),
        plain=True,
        not_plain="",
        sha256=digest(values),
        versions={"tensorflow": "2.20.0"},
    )
    return dataclasses.replace(plain, **changes)


class Halving(Program):
    """A program whose loss halves, from that of the batch; it takes some time per step."""

    def __init__(self, exported: Exported) -> None:
        self.loss = 2.0 * float(exported.batches()[0]["x"][0, 0])
        self.taken = self.waited = 0

    def step(self) -> float:
        time.sleep(0.002)
        self.taken += 1
        self.loss /= 2
        return self.loss

    def wait(self) -> None:
        self.waited = self.taken

    @property
    def device(self) -> tuple[str, str]:
        return "gpu", "NVIDIA H200"

    def peak_bytes(self) -> int | None:
        return 3 * 2**29

    def versions(self) -> str:
        return "python 3"


def build(directory: str, report: str, first: int) -> Callable[[int], float]:
    return serve(Halving, directory, report, first)


def dying(directory: str, report: str, first: int) -> Callable[[int], float]:
    raise SystemExit(7)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "export"
    write(
        path,
        b"program",
        {"head/bias": np.zeros(3, np.float32)},
        [{"x": np.full((2, 4), 8, np.int32)}] * 3,
        manifest(),
    )
    return path


def test_an_export_is_read_as_it_was_written(directory: Path) -> None:
    exported = read(directory)
    assert exported.manifest == manifest()
    assert exported.program == b"program"
    assert exported.values()["head/bias"].tolist() == [0.0, 0.0, 0.0]
    assert [b["x"].shape for b in exported.batches()] == [(2, 4)] * 3
    assert exported.manifest.config == ModelConfig(dropout=0.0)


def test_a_program_is_warm_before_it_is_timed(directory: Path, tmp_path: Path) -> None:
    run = build(str(directory), str(tmp_path / "report.json"), 3)
    report = Report(**json.loads((tmp_path / "report.json").read_text()))
    assert report.losses == [8.0, 4.0, 2.0]
    assert report.start_seconds >= 0.002
    assert 0.002 <= run(50) < 0.1  # seconds of one step, not of all


def test_the_whole_runner(
    directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    two = {
        key: (name, f"{HERE}:build", (), "json")
        for key, (name, *_) in step_on_gpu.PROGRAMS.items()
        if key in ("ours", "jax")
    }
    monkeypatch.setattr(step_on_gpu, "PROGRAMS", two)
    flags = [
        str(directory),
        "--programs",
        "ours",
        "jax",
        "--rounds",
        "2",
        "--steps",
        "3",
        "--json",
        str(tmp_path / "out.json"),
    ]
    assert step_on_gpu.main(flags) == 0
    shown = capsys.readouterr().out
    assert "device: NVIDIA H200, a peak of 989 TFLOP/s" in shown
    assert "| plain JAX | 8.000000 | 4.000000 |" in shown
    assert "1.50 GiB" in shown
    written = json.loads((tmp_path / "out.json").read_text())
    assert len(written["programs"][OURS]["rounds"]["seconds"]) == 2
    told = json.loads((directory / "step.json").read_text())
    (directory / "step.json").write_text(json.dumps({**told, "losses": [8.0, 4.1]}))
    with pytest.raises(TlmError, match=r"losses that must agree do not: tpu_tlm's step.*2\.4e-02"):
        step_on_gpu.main(flags)


def test_a_program_that_dies_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        step_on_gpu, "PROGRAMS", {"ours": ("the dying one", f"{HERE}:dying", (), "json")}
    )
    with pytest.raises(TlmError, match="the dying one ended with exit code 7"):
        step_on_gpu.main([str(directory), "--programs", "ours", "--rounds", "1"])


def test_programs_that_cannot_run(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = Exported(directory, manifest())
    absent = {"torch"}
    monkeypatch.setattr(
        step_on_gpu.importlib.util, "find_spec", lambda name: None if name in absent else object()
    )
    assert chosen(None, exported) == (
        ["ours", "jax"],
        [f"{TORCH} is left out: torch is not installed (python -m pip install torch)"],
    )
    with pytest.raises(UsageError, match="plain PyTorch cannot run: torch is not installed"):
        chosen(["torch"], exported)
    other = Exported(directory, manifest(plain=False, not_plain="--rpr_k [8]"))
    keys, left = chosen(None, other)
    assert keys == ["ours"] and "this export has --rpr_k [8]" in left[0]
    with pytest.raises(UsageError, match=r"BERT with AdamW only; here --rpr_k \[8\]"):
        plain_only(other)
    absent.add("jax")
    with pytest.raises(
        UsageError, match="tpu_tlm's step, lowered by TensorFlow cannot run: jax is not installed"
    ):
        chosen(None, exported)


def report(
    platform: str = "gpu", device: str = "NVIDIA H200", peak_bytes: int | None = None
) -> Report:
    return Report(platform, device, [1.0], 12.34, peak_bytes, "jax 1")


def test_programs_on_different_devices() -> None:
    assert same_device({"a": report(), "b": report()}) == "NVIDIA H200"
    with pytest.raises(TlmError, match=r"different devices \(a: NVIDIA H200, b: cpu\)"):
        same_device({"a": report(), "b": report("cpu", "cpu")})


def test_a_processor_is_no_gpu() -> None:
    assert "say nothing about a GPU" in heading("cpu", "cpu", manifest(), None)
    assert "say nothing" not in heading("NVIDIA H200", "gpu", manifest(), 989e12)
    with pytest.raises(UsageError, match="--steps 0"):
        step_on_gpu.main(["nowhere", "--steps", "0"])


def test_figures_of_the_table() -> None:
    results = [
        Result(OURS, [0.01, 0.012, 0.011], [], [1.0, 1.0, 1.0]),
        Result(JAX, [0.02, 0.024, 0.022], [], [0.5, 0.51, 0.49]),
    ]
    text = speed_table(results, {OURS: report(peak_bytes=2**30), JAX: report()}, manifest(), 1e15)
    assert (
        f"| {OURS} | 11.00 (10.00 to 12.00) | 727 | 27.3 % | 1.00 (1.00 to 1.00) | 1.00 GiB | "
        "12.3 s |" in text
    )
    assert (
        f"| {JAX} | 22.00 (20.00 to 24.00) | 364 | 13.6 % | 0.50 (0.49 to 0.51) | not told | 12.3 "
        "s |" in text
    )
    assert "unknown peak" in speed_table(results, {OURS: report(), JAX: report()}, manifest(), None)


def test_losses_are_judged() -> None:
    losses = {step_on_gpu.TENSORFLOW: (8.0, 4.0), OURS: [8.0, 4.0001], JAX: [8.0, 4.4, 1.0]}
    told, bad = judge(losses, manifest(), 1e-3)
    assert [line.split(":")[0] for line in bad] == [JAX]
    assert f"{OURS}: losses up to 2.5e-05 from those of TensorFlow" in told[0]
    assert judge(losses, manifest(model={"dropout": 0.1}), 1e-3)[1] == []
    assert judge(losses, manifest(model={"dropout": 0.1}), 1e-6)[1] == [told[0]]
    assert judge({OURS: [1.0], JAX: [math.nan]}, manifest(), 1.0)[1] != []
    assert math.isnan(furthest([1.0, 2.0], [1.0, math.inf]))
    assert "| 8.000000 | 4.400000 | 1.000000 |" in loss_table(losses)


def interpreter() -> Path | None:
    """A Python with JAX: the one that GPU_BENCH_PYTHON names, this one, or that of an
    environment beside the tests'.
    """
    if named := os.environ.get("GPU_BENCH_PYTHON"):
        return Path(named)
    for venv in (Path(sys.prefix), ROOT / ".venv-bench", ROOT / ".venv-plan"):
        if list(venv.glob("lib/python*/site-packages/jax/version.py")):
            return venv / "bin" / "python"
    return None


def test_all_programs_agree(tmp_path: Path) -> None:
    """The lowered step does what TensorFlow did, and so do the plain programs, from the same
    values on the same batches.
    """
    from tests.benchmarks.test_step_export import (
        SMALL,  # with TensorFlow, which the children above do not need
    )

    python = interpreter()
    if python is None:
        pytest.skip(
            "no environment with JAX: make gpu-bench-env, or name a Python in GPU_BENCH_PYTHON"
        )
    step_export.main(["--out", str(tmp_path), *SMALL, "--dropout", "0", "--check_steps", "4"])
    command = [
        str(python),
        "-m",
        "benchmarks.step_on_gpu",
        str(tmp_path),
        "--rounds",
        "1",
        "--steps",
        "1",
        "--json",
        str(tmp_path / "out"),
    ]
    # One thread each: idle threads of PyTorch's wait busily, on a machine that others use too.
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    ran = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=environment
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    losses = json.loads((tmp_path / "out").read_text())["losses"]
    reference = losses[step_on_gpu.TENSORFLOW]
    assert (
        len(reference) == 4 and abs(reference[0] - reference[2]) > 0.05
    )  # the same batch after two updates
    assert furthest(reference, losses[OURS]) < 1e-5
    assert furthest(reference, losses[JAX]) < 1e-4
    if TORCH in losses:
        assert furthest(reference, losses[TORCH]) < 1e-4
    else:
        assert f"{TORCH} is left out: torch is not installed" in ran.stdout
