"""The benchmarks of the TPU's estimates: which part of the step an operation is, and the table."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import tpu_step, tpu_table
from benchmarks.tpu_step import part_of
from tpu_tlm.planning.chips import GIB


@pytest.mark.parametrize(
    ("operation", "part"),
    [
        (
            "gradient_tape/while/model_1/encoder_1/3_1/ffn_1/squeeze_1/MatMul/MatMul_1",
            "feed-forward: products",
        ),
        ("model_1/encoder_1/11_1/attn_1/qkv_1/einsum/Einsum", "projections: products"),
        ("model_1/encoder_1/11_1/attn_1/Softmax", "scores, softmax, mixing"),
        ("gradient_tape/MatMul_7/MatMul_1", "scores, softmax, mixing"),
        ("while/sub_3", "scores, softmax, mixing"),
        ("model_1/encoder_1/0_1/ln1_1/Mean", "norms, residuals"),
        ("gradient_tape/model_1/head_1/dense_1/MatMul/MatMul", "head and loss"),
        ("optimizer/sub_12", "optimizer and clipping"),
        ("clip/Sum_3", "optimizer and clipping"),
        ("model_1/embeddings_1/reduction_1/Mean", "embeddings"),
        ("while/Add_40", "sums of micro-batches"),
        ("Any", "other"),
    ],
)
def test_parts(operation, part):
    assert part_of(operation, product=True) == part


def test_what_is_no_product_beside_products():
    assert (
        part_of("gradient_tape/model_1/encoder_1/0_1/ffn_1/squeeze_1/add/Sum", product=False)
        == "feed-forward: other passes"
    )


def test_the_table_is_made_of_what_is_there(tmp_path, monkeypatch, capsys):
    """Rows that fit, that do not, and that were compiled and are too large; nothing is compiled
    again.
    """
    fits = {
        "hbm_bytes": 3 * GIB,
        "fits": True,
        "step_seconds": 0.04,
        "tokens_per_second": 204800.4,
        "mfu": 0.5678,
    }
    for i, row in enumerate(tpu_table.ROWS):
        told = [fits, {"hbm_bytes": 20 * GIB, "fits": False}, {**fits, "fits": False}][i % 3]
        (tmp_path / f"{row.name}.json").write_text(json.dumps(told))
    assert len({row.name for row in tpu_table.ROWS}) == len(tpu_table.ROWS)
    monkeypatch.setattr(sys, "argv", ["tpu_table", str(tmp_path)])
    tpu_table.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == tpu_table.HEAD.splitlines() and len(lines) == len(tpu_table.ROWS) + 2
    assert lines[2] == "| v5e | base | 64 x 128 | 1 | 3.00 | 40.0 | 204,800 | 56.8 % |"
    assert "20.00 | does not fit" in lines[3] and lines[4].endswith("(too much memory)")
    assert all(line.count("|") == 9 for line in lines[2:])


def test_every_row_is_a_command_of_the_step(tmp_path):
    for row in tpu_table.ROWS:
        command = row.command("python", tmp_path / "x.json")
        assert (
            command[1:3] == ["-m", "benchmarks.tpu_step"]
            and row.size in tpu_step.SIZES
            and row.batch % row.micro == 0
        )
