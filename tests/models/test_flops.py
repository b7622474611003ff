"""FLOPs by hand and against the TPU compiler's count; peak FLOP/s by name of the device."""

from __future__ import annotations

import pytest

from tpu_tlm.config import ModelConfig
from tpu_tlm.devices.peaks import device_name, peak_flops
from tpu_tlm.models.flops import flops_per_example, seq2seq_flops_per_example

BERT_BASE = ModelConfig(d_model=768, d_ff=3072, num_heads=12, num_layers=12, rpr_k=[0])


@pytest.mark.parametrize(
    ("batch", "seq_length", "predictions", "compiler"),
    # Figures of the TPU compiler's cost analysis for a whole BERT-base step, everything included.
    [(32, 128, 20, 2.273e12), (128, 128, 20, 9.055e12), (32, 512, 76, 9.796e12)],
)
def test_bert_base_against_the_compilers_count(
    batch: int, seq_length: int, predictions: int, compiler: float
) -> None:
    ours = batch * flops_per_example(BERT_BASE, seq_length, predictions, 30522)
    assert 0.93 < ours / compiler < 1.0, "what is not counted is a few percent"


def test_by_hand() -> None:
    model = ModelConfig(
        d_model=4, d_ff=8, num_heads=2, num_layers=1, d_k=3, rpr_k=[1], rpr_value_on=False
    )
    projections, attention, relative, feed_forward, head = (
        5 * 4 * 4 * 6,
        5 * 2 * 5 * 6,
        5 * 3 * 6,
        5 * 2 * 4 * 8,
        2 * 4 * 10,
    )
    assert flops_per_example(model, 5, 2, 10) == 3 * 2 * (
        projections + attention + relative + feed_forward + head
    )


def test_what_adds_to_it() -> None:
    base = flops_per_example(BERT_BASE, 128, 20, 30522)
    tables = flops_per_example(
        ModelConfig(d_model=768, d_ff=3072, num_heads=12, num_layers=12, rpr_k=[8]), 128, 20, 30522
    )
    assert tables - base == 3 * 12 * 128 * 2 * 2 * 17 * 768
    head = flops_per_example(
        ModelConfig(
            d_model=768, d_ff=3072, num_heads=12, num_layers=12, rpr_k=[0], mlm_head="bert"
        ),
        128,
        20,
        30522,
    )
    assert head - base == 3 * 20 * 2 * 768 * 768


def test_variants_by_hand() -> None:
    sizes = {"d_model": 4, "d_ff": 8, "num_heads": 2, "num_layers": 1, "rpr_k": [0]}
    base = flops_per_example(ModelConfig(**sizes), 5, 2, 10)
    assert base == 3 * 2 * (5 * 4 * 4 * 4 + 5 * 2 * 5 * 4 + 5 * 2 * 4 * 8 + 2 * 4 * 10)

    def more(**options: object) -> float:
        return (flops_per_example(ModelConfig(**(sizes | options)), 5, 2, 10) - base) / 6  # type: ignore[arg-type]

    assert more(activation="swiglu") == 5 * 4 * 8
    assert (
        more(position_encoding=["alibi"], rpr_k=[3])
        == more(position_encoding=["convert"], rpr_k=[3])
        == 0
    )
    assert more(embedding_size=3) == 5 * 3 * 4 + 2 * (3 * 10 + 4 * 3) - 2 * 4 * 10
    # One head, queries and keys 3 wide, values 4: two columns less in the projections and no w_O;
    # scores are 3 wide.
    assert more(num_heads=1, d_k=3, single_head=True) == 5 * (4 * -2 - 16) - 5 * 5
    assert more(mlp=True) == 5 * (4 * 8 + 5 * 4 + 4 * 4) - 5 * (4 * 16 + 2 * 5 * 4 + 2 * 4 * 8)


@pytest.mark.parametrize(
    ("name", "bfloat16", "float32"),
    [
        ("v2-8", 22.5, 22.5),
        ("v3-32", 61.5, 61.5),
        ("v4-8", 275, 275),
        ("v5litepod-16", 197, 197),
        ("TPU v5 lite", 197, 197),
        ("TPU v5e", 197, 197),
        ("v5p-128", 459, 459),
        ("v6e-8", 918, 918),
        ("NVIDIA H200", 989, 494.5),
        ("NVIDIA H100 80GB HBM3", 989, 494.5),
        ("NVIDIA H100 PCIe", 756, 378),
        ("NVIDIA A100-SXM4-40GB", 312, 156),
        ("NVIDIA L4", 121, 60),
        ("NVIDIA L40S", 362, 183),
        ("Tesla V100-SXM2-16GB", None, 15.7),
        ("Tesla V100-PCIE-16GB", None, 14),
        ("Tesla T4", None, 8.1),
        ("NVIDIA GeForce GT 710", None, None),
        ("CPU", None, None),
        ("TPU", None, None),
    ],
)
def test_peaks(name: str, bfloat16: float | None, float32: float | None) -> None:
    for precision, teraflops in (("bfloat16", bfloat16), ("float32", float32)):
        assert peak_flops(name, precision) == (
            None if teraflops is None else pytest.approx(teraflops * 1e12)
        )


def test_the_name_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    assert device_name("TPU") == "v5litepod-8" and device_name("CPU") == "CPU"
    monkeypatch.delenv("TPU_ACCELERATOR_TYPE")
    assert device_name("TPU") == "TPU"


def test_an_encoder_decoder_by_hand() -> None:
    sizes = {
        "d_model": 4,
        "d_ff": 8,
        "num_heads": 2,
        "num_layers": 1,
        "num_decoder_layers": 3,
        "rpr_k": [0],
    }
    s, t, vocab = 5, 7, 10
    encoder = s * (4 * 4 * 4 + 2 * s * 4 + 2 * 4 * 8)
    decoder = t * (4 * 4 * 4 + 2 * t * 4 + 2 * 4 * 8) + t * (2 * 4 * 4 + 2 * s * 4) + s * 2 * 4 * 4
    assert seq2seq_flops_per_example(ModelConfig(**sizes), s, t, vocab) == 6 * (
        encoder + 3 * decoder + t * 4 * vocab
    )
    # Relative positions: 3 rows of keys and values in self attention of both stacks, and in cross
    # attention.
    more = 2 * 3 * 4 * (s + 3 * (t + t))
    assert seq2seq_flops_per_example(ModelConfig(**(sizes | {"rpr_k": [1]})), s, t, vocab) == 6 * (
        encoder + 3 * decoder + t * 4 * vocab + more
    )


def test_a_window_has_only_the_scores_that_it_reaches() -> None:
    sizes = {"d_model": 4, "d_ff": 8, "num_heads": 2, "num_layers": 3, "rpr_k": [0]}
    dense = flops_per_example(ModelConfig(**sizes), 50, 2, 10)
    local = flops_per_example(ModelConfig(**sizes, local_window=3, global_every=2), 50, 2, 10)
    # One of three layers is local, with scores and values 4 wide.
    assert dense - local == 3 * 2 * 50 * (50 - 7) * (4 + 4)
    wide = ModelConfig(**sizes, local_window=30, global_every=2)
    assert flops_per_example(wide, 50, 2, 10) == dense
