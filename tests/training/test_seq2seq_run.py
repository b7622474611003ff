"""docs/seq2seq.md, executed: repairing texts, then reversing words, through the commands."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from tests.paths import ROOT
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.load import load
from tpu_tlm.formats.mead.arrays import read_npz
from tpu_tlm.training.metrics import read_metrics

PAGE = ROOT / "docs" / "seq2seq.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.S)


def commands():
    """The page's commands, as (name, arguments)."""
    for block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            assert words[:2] == ["python", "-m"]
            yield words[2], words[3:]


@pytest.mark.long
def test_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    exec(compile(code, str(PAGE), "exec"), {})
    out = []
    for name, arguments in commands():
        devices = ["--distribute", "none"] if name.endswith(("train", "evaluate")) else []
        assert importlib.import_module(name).main([*arguments, *devices]) == 0
        out.append(capsys.readouterr().out.strip().splitlines())
    *_, repaired, _, evaluated, reversed_ = out
    assert repaired[-1] == "bee cat dog eel fox gnu hen ibis jay"
    result = json.loads(evaluated[-1])
    assert result["accuracy"] > 0.98 and result["loss"] < 0.1 and result["examples"] > 150
    written = [json.loads(line) for line in reversed_]
    assert [w["text"] for w in written] == ["eel dog cat", "fox bee ant ant jay"]
    # Guessing among the vocabulary would be near -4.4 a token, -26 for the longer one.
    assert all(w["ended"] and -3 < w["log_probability"] < 0 for w in written)
    losses = [r["loss"] for r in read_metrics("repaired/metrics.jsonl") if r["kind"] == "train"]
    assert losses[-1] < 0.5 * losses[0]
    # The export has MEAD's two copies of the table, with the sentinels' rows, and reads back equal.
    arrays = read_npz(Path("repaired/npz/checkpoint-step-300.npz").read_bytes(), "npz")
    tables = [arrays[f"Seq2Seq/{name}/weights"] for name in ("SrcEmbeddings/x", "TgtEmbedding/y")]
    saved, exported = load("repaired"), load("repaired/npz/checkpoint-step-300.npz")
    assert len(saved.tokenizer().tokens) == saved.spec.vocab_size - 3 == len(tables[0]) - 3
    np.testing.assert_array_equal(*tables)
    assert (
        exported.spec == saved.spec
        and exported.tokenizer().fingerprint() == saved.tokenizer().fingerprint()
    )
    # Shape and sentinels came from the model; other sentinels are refused, with the right number.
    assert load("reversed").spec.sentinels == saved.spec.sentinels == 3
    name, arguments = list(commands())[5]
    with pytest.raises(UsageError, match="give --sentinels 3"):
        importlib.import_module(name).main(
            [*arguments, "--sentinels", "2", "--run_dir", "refused", "--distribute", "none"]
        )
