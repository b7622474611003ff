"""The demo on another real text, and its model in `transformers`: the same fill-masks as by
`predict`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pydoc_data.topics import topics

import numpy as np
import pytest

from tests import hf
from tests.paths import ROOT
from tpu_tlm.formats.huggingface.read import read_hf
from tpu_tlm.formats.save import save

pytestmark = pytest.mark.long
EXAMPLES = ROOT / "examples"
TEXTS = [
    "the [MASK] statement is used to define a function .",
    "a class [MASK] is an executable statement .",
    "if the [MASK] is omitted , the value is [MASK] .",
    "the [MASK] of the [MASK] is the [MASK] object .",
    "[MASK]",
    "Exceptions are [MASK] by the Python interpreter, see section [MASK]!",
]


def example(name):
    """A script of examples/ as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The demo's directory after a short training on the reference manual that comes with
    Python. The demo has compared the model with `transformers` and with word frequencies by then.
    """
    base = tmp_path_factory.mktemp("demo")
    (base / "manual.txt").write_text("\n\n".join(topics[name] for name in sorted(topics))[:250_000])
    example("demo").main([str(base / "out"), "--text", str(base / "manual.txt"), "--steps", "250"])
    return base / "out"


def test_it_learns_and_leaves_what_it_says(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["validation_loss"] < result["unigram_loss"] - 0.5
    assert "<svg" in (trained / "loss.svg").read_text()
    assert json.loads((trained / "huggingface" / "config.json").read_text())["architectures"] == [
        "ModernBertForMaskedLM"
    ]


@hf.needs_torch
def test_transformers_fills_the_same_masks(trained, capsys):
    """Same five tokens, same order, same probabilities, through the pipeline and the tokenizer
    that the conversion wrote.
    """
    from transformers import pipeline

    from tests.command_modules import predict

    hf.load("ModernBertForMaskedLM", trained / "huggingface")
    capsys.readouterr()
    assert (
        predict.main(["fill-mask", "--model", str(trained / "run"), "--json", "--text", *TEXTS])
        == 0
    )
    ours = [json.loads(line)["masks"] for line in capsys.readouterr().out.splitlines()]
    fill = pipeline(
        "fill-mask",
        model=str(trained / "huggingface"),
        tokenizer=str(trained / "huggingface"),
        device="cpu",
    )
    different = set()
    for text, masks in zip(TEXTS, ours, strict=True):
        answer = fill(text, top_k=5)
        theirs = answer if isinstance(answer[0], list) else [answer]
        assert len(theirs) == len(masks) == text.count("[MASK]")
        for mine, other in zip(masks, theirs, strict=True):
            assert [guess["id"] for guess in mine] == [guess["token"] for guess in other]
            assert [guess["probability"] for guess in mine] == pytest.approx(
                [guess["score"] for guess in other], abs=1e-5
            )
            assert [guess["token"] for guess in mine] == fill.tokenizer.convert_ids_to_tokens(
                [guess["token"] for guess in other]
            )
            different.add(tuple(guess["id"] for guess in mine))
    assert len(different) > 2  # a model that says the same everywhere would prove little


@hf.needs_torch
def test_the_demo_would_notice_another_model(trained, tmp_path):
    """The demo has compared its own by now; the same comparison fails for a model with other
    probabilities.
    """
    saved = read_hf(str(trained / "huggingface"))
    bias = saved.values["head/bias"] + np.linspace(
        0, 3, len(saved.values["head/bias"]), dtype=np.float32
    )
    save(saved.replaced(values={**saved.values, "head/bias": bias}), str(tmp_path / "other"), "hf")
    with pytest.raises(SystemExit, match="predict says"):
        example("compare_hf").compare(str(trained / "run"), str(tmp_path / "other"), TEXTS[:1])
