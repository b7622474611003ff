"""What the command refuses before it asks a model."""

from __future__ import annotations

import io
import sys

import pytest

from tests.command_modules import predict
from tests.toy import toy_pairs
from tpu_tlm.config import ModelConfig
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.errors import UsageError
from tpu_tlm.formats import load as training_saved
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec


@pytest.fixture(scope="module")
def dual(tmp_path_factory):
    """An untrained dual encoder with the toy pairs' tokenizer."""
    tokenizer = open_dataset(
        str(toy_pairs(tmp_path_factory.mktemp("toy") / "train", examples=4, shards=1))
    ).load_tokenizer()
    config = ModelConfig(
        d_model=16, d_ff=32, num_heads=2, num_layers=1, rpr_k=[2], reduction_type="mean", d_out=16
    )
    spec = ModelSpec(config, len(tokenizer.tokens), 8, tokenizer.pad_id, "dual", seq_length_y=8)
    values = {path: v.numpy() for path, v in named_variables(build_model(spec, seed=1)).items()}
    return PretrainedModel(
        values, spec, "untrained", fingerprint=tokenizer.fingerprint(), own_tokenizer=tokenizer
    )


@pytest.mark.parametrize(
    ("given", "lines", "answered", "says"),
    [
        (["--text", "w1", ""], "", ["w1"], r"--text: text 2 \(''\) has no token"),
        (["--text", " "], "", [], r"--text: text 1 \(' '\) has no token"),
        ([], "w1\nw2\n\nw3\n", ["w1", "w2"], r"standard input: line 3 \(''\) has no token"),
    ],
)
def test_a_text_without_tokens_gets_no_response(
    given, lines, answered, says, dual, tmp_path, monkeypatch, capsys
):
    (tmp_path / "candidates.txt").write_text("w1 w2\nw3\n")
    monkeypatch.setattr(training_saved, "load", lambda model, step, describe: dual)
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    with pytest.raises(UsageError, match=says):
        predict.main(
            [
                "respond",
                "--model",
                "untrained",
                "--candidates",
                str(tmp_path / "candidates.txt"),
                *given,
            ]
        )
    assert [
        line for line in capsys.readouterr().out.splitlines() if not line.startswith((" ", "#"))
    ] == answered


def test_standard_input_that_is_no_text_is_named(monkeypatch):
    lines = io.TextIOWrapper(io.BytesIO(b"good\r\nw\xc3\xa4\n\xff\xfe\n"), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", lines)
    texts = predict._standard_input()
    assert [next(texts), next(texts)] == ["good", "wä"]
    with pytest.raises(UsageError, match="standard input: line 3"):
        next(texts)
    monkeypatch.setattr(sys, "stdin", None)
    assert list(predict._standard_input()) == []
