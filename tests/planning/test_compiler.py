"""A refusal of the compiler as figures."""

from __future__ import annotations

from tests.paths import DATA_FILES
from tpu_tlm.planning import report
from tpu_tlm.planning.chips import GIB
from tpu_tlm.planning.compiler import Allocation, refusal

# What libtpu 0.0.31 said to one layer of BERT-base at 1024 x 512.
MESSAGE = (DATA_FILES / "planning/refusal.txt").read_text()


def test_figures_and_the_largest_allocations():
    found = refusal(MESSAGE, GIB // 2)
    assert found is not None
    # The message counts no arguments beside the program.
    assert found.hbm == int(26.38 * GIB) + GIB // 2
    assert found.limit == 15.75 * GIB and found.arguments == GIB // 2
    assert found.allocations[0] == Allocation(
        12 * GIB, "model_1/encoder_1/0_1/attn_1/Softmax", "f32[1024,12,512,512]"
    )
    assert [a.bytes / GIB for a in found.allocations] == [12, 6, 2.25, 0.75]


def test_arguments_that_are_too_much_alone_are_counted_once():
    message = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 256.00G of 15.75G hbm. "
        "Exceeded hbm capacity by 240.25G.\n\nTotal hbm usage >= 256.25G:\n    reserved        "
        "258.00M \n"
        "    program         unknown size \n"
        "    arguments       256.00G \n\nOutput size 512.00G; shares 0B with "
        "arguments.\n\nProgram hbm requirement 0B:\n"
    )
    found = refusal(message, 256 * GIB)
    assert found is not None
    assert (found.hbm, found.allocations) == (256 * GIB, ())


def test_another_message_is_no_refusal():
    assert refusal("INVALID_ARGUMENT: something else", 0) is None


def test_it_is_told_with_layers_by_name():
    found = refusal(MESSAGE, GIB // 2)
    assert found is not None
    text = report.refusal(found, 1024, "v5e-1")
    assert "26.88 GiB of the 15.75 GiB" in text and "0.50 GiB" in text
    assert "12.00 GiB  encoder/0/attn/Softmax  f32[1024,12,512,512]" in text
