"""The Python blocks of README.md run, on a small corpus with small sizes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.paths import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
# What makes it small: the number of merges and steps, the batch, and the preset. Compiling the step
# takes longer than two of them.
SMALLER = (
    ("vocab_size=16000", "vocab_size=300"),
    ("100_000", "2, batch_size=8, xla=False"),
    ("bert-small", "bert-tiny"),
)


def test_the_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    speech = (ROOT / "tests/data_files/tokenizers/speech.txt").read_text()
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "speech.txt").write_text(speech)
    assert len(BLOCKS) == 2
    # README shows first what a trained model does; here it is trained first.
    for block in sorted(BLOCKS, key=lambda block: "tlm.train(" not in block):
        lines = [line for line in block.splitlines() if line and not line.startswith("import")]
        assert len(lines) <= 5
        for large, small in SMALLER:
            block = block.replace(large, small)
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "work/hf/model.safetensors").exists()
    assert capsys.readouterr().out.strip()
