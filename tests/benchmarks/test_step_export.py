"""An exported step says what it is, starts from the model's own values, and its losses are those
of training.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.compiler.mlir.stablehlo import stablehlo

from benchmarks import step_export
from benchmarks.gpu.exported import Exported, read
from benchmarks.harness import ROOT
from benchmarks.tpu_step import BERT, SIZES
from tests.benchmarks.lowering import lowered_lines
from tpu_tlm.config import Config, cli
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.planning.stand_in import stand_in
from tpu_tlm.training.loop import Loop
from tpu_tlm.training.setup import experiment_of
from tpu_tlm.training.state import TrainState

SMALL = [
    "--size",
    "tiny",
    "--num_layers",
    "1",
    "--d_model",
    "32",
    "--d_ff",
    "64",
    "--precision",
    "float32",
    "--lr",
    "0.01",
]
SMALL += ["--batch", "8", "--length", "16", "--vocab", "200", "--batches", "2"]
STEPS = 3


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    directory = tmp_path_factory.mktemp("exported")
    assert (
        step_export.main(
            ["--out", str(directory), *SMALL, "--check_steps", str(STEPS), "--values", "seed"]
        )
        == 0
    )
    return read(directory)


def test_the_program_takes_and_gives_what_the_manifest_says(exported: Exported) -> None:
    manifest = exported.manifest
    text = stablehlo.deserialize_portable_artifact_str(exported.program)
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    assert exported.program.startswith(b"ML\xefR\x01StableHLO_v0.9.0")
    assert "main" in text
    kinds = [a.kind for a in manifest.arguments]
    values, slots = kinds.count("value"), kinds.count("slot")
    assert kinds == ["value"] * values + ["slot"] * 2 * values + ["batch"] * 3 + ["index"]
    assert [a.name for a in manifest.of("batch")] == ["position", "w", "x"]
    assert [a.result for a in manifest.arguments] == [
        *range(values + slots),
        None,
        None,
        None,
        None,
    ]
    for argument in manifest.of("value", "slot"):
        assert manifest.results[argument.result or 0] == f"{argument.kind}/{argument.name}"
    assert manifest.results[values + slots :] == (
        "loss",
        "weight",
        "accuracy/sum",
        "accuracy/count",
        "norm",
    )
    assert manifest.parameters == sum(v.size for v in exported.values().values())
    assert manifest.flops == pytest.approx(
        8 * 3 * (16 * 2 * (4 * 32 * 32 + 2 * 16 * 32 + 2 * 32 * 64) + 3 * 2 * 32 * (200 + 32))
    )
    assert manifest.plain


def test_losses_are_those_of_training(exported: Exported) -> None:
    """The package's own loop, with variables and dropout, over the same batches."""
    manifest = exported.manifest
    values = {
        **BERT,
        **SIZES["tiny"],
        **step_export.OPTIMIZER,
        "batch_size": 8,
        "num_layers": 1,
        "d_model": 32,
        "d_ff": 64,
        "lr": 0.01,
    }
    everything = Config(*cli.build(Config.groups(), values, "test"))
    step = experiment_of(everything, stand_in(200, {"x": 16}), 100, "float32").step
    own = [{k: v for k, v in batch.items() if "/" not in k} for batch in exported.batches()]
    stacked = {name: np.stack([own[i % len(own)][name] for i in range(STEPS)]) for name in own[0]}
    loop, batches = (
        Loop(step, TrainState(step), xla=False),
        iter(tf.data.Dataset.from_tensor_slices(stacked)),
    )
    losses = [loop.train(batches, 1).loss for _ in range(STEPS)]
    np.testing.assert_allclose(manifest.losses, losses, rtol=1e-5)
    assert manifest.model["dropout"] == 0.1
    assert max(losses) - min(losses) > 0.02


def test_values_are_drawn_again(exported: Exported, tmp_path: Path) -> None:
    assert not (exported.directory / "values.npz").exists()
    drawn = exported.values()
    assert not drawn["embeddings/x/table"][200:].any()
    assert drawn["embeddings/x/table"][:200].std() == pytest.approx(
        0.0176, rel=0.05
    )  # 0.02 without the tails
    other = dataclasses.replace(exported.manifest, seed=1)
    with pytest.raises(TlmError, match="not those that were exported.*--values npz"):
        Exported(exported.directory, other).values()


def test_masks_for_the_plain_programs_are_the_step_s(exported: Exported) -> None:
    for batch in exported.batches():
        x, places, labels, weights = (
            batch[f"masked/{name}"] for name in ("x", "places", "labels", "weights")
        )
        assert batch["x"].min() >= 5 and batch["x"].max() < 200
        np.testing.assert_array_equal(labels, np.take_along_axis(batch["x"], places, 1))
        assert weights.sum(1).tolist() == [2.0] * 8
        changed = x != batch["x"]
        assert 0 < changed.sum() <= 16
        assert all(
            set(np.flatnonzero(row)) <= set(p[w > 0])
            for row, p, w in zip(changed, places, weights, strict=True)
        )


def test_only_bert_is_plain() -> None:
    def reason(**values: object) -> str:
        everything = {**BERT, **step_export.OPTIMIZER, **values}
        return step_export.not_plain(Config(*cli.build(Config.groups(), everything, "test")))

    assert reason(d_model=96, num_layers=3, dropout=0.0, mask_rate=0.3) == ""
    assert reason(position_encoding=["shaw"], rpr_k=[8], optim="lamb") == (
        "--position_encoding ['shaw'], --rpr_k [8], --optimizer lamb"
    )
    assert reason(warmup_steps=10, ffn_pdrop=0.1) == "--ffn_pdrop 0.1, --warmup_steps 10"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--objective", "electra"], "--objective electra: steps of mlm and clm"),
        (["--batch", "0"], "--batch 0: must be 1 or more"),
        (["--check_steps", "-1"], "--check_steps -1: must be 0 or more"),
        (["--grad_accum", "3"], "--batch_size 8 cannot be divided"),
        (["--vocab", "4"], "--vocab_size 4"),
    ],
)
def test_wrong_use(flags: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        step_export.main(["--out", str(tmp_path), *SMALL, *flags])
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_none(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no exported step.*benchmarks\.step_export"):
        read(tmp_path)
    told = json.loads((exported.directory / "step.json").read_text())
    (tmp_path / "step.json").write_text(json.dumps({**told, "format": 2}))
    with pytest.raises(UsageError, match="is of format 2, this program reads 1"):
        read(tmp_path)


def test_the_host_s_lowering_is_the_tpu_s() -> None:
    """So what runs through JAX is the program that `plan` compiles; in the environment of `make
    plan-env`, which has the TPU's lowering.
    """
    python = ROOT / ".venv-plan" / "bin" / "python"
    if not python.exists():
        pytest.skip("no environment with tensorflow-tpu: make plan-env")
    command = [str(python), "-m", "tests.benchmarks.lowering", "bfloat16"]
    ran = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ}
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    host, tpu = lowered_lines("bfloat16", "CPU"), ran.stdout.splitlines()
    assert len(host) == len(tpu) > 1000
    assert [pair for pair in zip(host, tpu, strict=True) if len(set(pair)) > 1][:3] == []
