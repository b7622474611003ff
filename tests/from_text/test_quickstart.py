"""Own text to a model: what is left behind, the same by hand, and after an interruption."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest

import tpu_tlm as tlm
from tests import hf
from tests.paths import ROOT
from tpu_tlm.checkpoints.manager import Checkpoints
from tpu_tlm.errors import Preempted, UsageError
from tpu_tlm.training import Callback

STEPS = 5


def weights(run_dir: Path | str) -> dict[str, str]:
    """SHA-256 of the newest checkpoint's files."""
    found = Checkpoints(f"{run_dir}/checkpoints").newest()
    assert found is not None and found.step == STEPS
    return dict(found.hashes)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference manual that comes with Python, with some German."""
    path = tmp_path_factory.mktemp("text") / "my text.txt"
    german = "\n\n".join(f"Die Größe der Straße {name} ist Übung." for name in sorted(topics))
    manual = "\n\n".join(topics[name] for name in sorted(topics))[:120_000]
    path.write_text(f"{manual}\n\n{german}", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(text: Path, tmp_path_factory: pytest.TempPathFactory):
    base = tmp_path_factory.mktemp("quick") / "model"
    return tlm.quickstart(text, run_dir=base, steps=STEPS)


def test_everything_is_there(made, text: Path) -> None:
    base = Path(made.run_dir).parent
    assert "<svg" in Path(made.picture).read_text() and "<html" in Path(made.report).read_text()
    assert len(made.commands) == 5 and made.unigram > 4
    for masked, word, tokens in made.guesses:
        assert masked.replace("[MASK]", word) in " ".join(text.read_text("utf-8").split())
        assert len(tokens) == 5
    assert (base / "fill_mask.txt").read_text("utf-8").count("the text has") == len(made.guesses)
    tokenizer = tlm.load(made.run_dir).tokenizer
    assert tokenizer.decode(tokenizer.encode("Die Größe")) == "Die Größe", "case and umlauts"


def test_the_same_call_again_has_nothing_to_do(made, text: Path) -> None:
    before = weights(made.run_dir)
    again = tlm.quickstart(text, run_dir=Path(made.run_dir).parent, steps=STEPS)
    assert weights(made.run_dir) == before and again.guesses == made.guesses
    with pytest.raises(UsageError, match="steps"):
        tlm.quickstart(text, run_dir=Path(made.run_dir).parent, steps=STEPS + 1)


@pytest.mark.long
def test_the_commands_by_hand_give_the_same(made, tmp_path: Path) -> None:
    script = Path(made.run_dir).parent / "commands.sh"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable}
    subprocess.run(
        ["sh", str(script), "by hand"], cwd=tmp_path, env=environment, check=True, timeout=600
    )
    assert weights(tmp_path / "by hand" / "run") == weights(made.run_dir)
    theirs = tmp_path / "by hand" / "huggingface" / "model.safetensors"
    assert theirs.read_bytes() == (Path(made.huggingface) / "model.safetensors").read_bytes()


def test_an_interrupted_one_goes_on(made, text: Path, tmp_path: Path, monkeypatch) -> None:
    import tpu_tlm.training

    train = tpu_tlm.training.train

    class Interrupt(Callback):
        def on_step(self, report) -> None:
            if report.step >= 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            tpu_tlm.training, "train", lambda c, callbacks=(): train(c, callbacks=[Interrupt()])
        )
        with pytest.raises(Preempted, match="same quickstart command") as stopped:
            tlm.quickstart(text, run_dir=tmp_path / "model", steps=STEPS)
    assert stopped.value.exit_code == 130
    again = tlm.quickstart(text, run_dir=tmp_path / "model", steps=STEPS)
    assert weights(again.run_dir) == weights(made.run_dir)


@hf.needs_torch
def test_transformers_loads_it_with_its_tokenizer(made) -> None:
    from transformers import pipeline

    fill = pipeline("fill-mask", model=made.huggingface, tokenizer=made.huggingface, device="cpu")
    for masked, _, tokens in made.guesses:
        theirs = [guess["token"] for guess in fill(masked, top_k=5)]
        assert fill.tokenizer.convert_ids_to_tokens(theirs) == tokens


def test_a_directory_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds no quickstart"):
        tlm.quickstart(tmp_path / "notes.txt", run_dir=tmp_path)


def test_a_directory_without_text_is_refused_by_what_quickstart_has(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "x.unknown").write_text("words")
    with pytest.raises(UsageError, match="no file in .*pattern, such as") as error:
        tlm.quickstart(tmp_path / "text", run_dir=tmp_path / "r")
    assert "input_" not in str(error.value)


def test_a_preset_without_masks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="preset gpt2"):
        tlm.quickstart(tmp_path / "x", preset="gpt2", run_dir=tmp_path / "r")


def test_a_slow_machine_gets_fewer_steps_and_the_run_still_ends(
    tmp_path: Path, monkeypatch
) -> None:
    import tpu_tlm.training
    from tpu_tlm.config.quickstart import QuickstartConfig
    from tpu_tlm.from_text.run import _Quickstart

    trained: list[tuple[int | None, int]] = []

    def train(config, callbacks=()):
        trained.append((config.run.steps, len(callbacks)))
        for watch in callbacks:
            watch.steps = config.run.steps - 10
            raise Preempted("stopped", 130)

    monkeypatch.setattr(tpu_tlm.training, "train", train)
    config = QuickstartConfig(text=["x"], run_dir=str(tmp_path / "model"))
    quick = _Quickstart(config, lambda line: None, lambda: 0.0)
    flags = ["--train_dir", "t", "--run_dir", "r", "--warmup_steps", "2", "--steps", "100"]
    quick.state.commands["train"] = flags
    quick._train()
    assert trained == [(100, 1), (90, 1), (80, 0)]
    assert quick.state.commands["train"][-1] == "80", "what is printed is what was done"


@pytest.mark.parametrize(
    ("loss", "words"),
    [(2.0, "well below"), (4.5, ": below"), (4.9, "hardly below"), (5.1, "not below")],
)
def test_the_loss_is_told_by_what_it_is_beside_word_frequencies(loss: float, words: str) -> None:
    from tpu_tlm.config.quickstart import QuickstartConfig
    from tpu_tlm.from_text.result import QuickstartResult, summary_lines

    result = QuickstartResult("run", "hf", "report.html", None, [], loss, 5.0, [], 60.0)
    lines = summary_lines(result, "base", QuickstartConfig(text=["x"], run_dir="base"))
    assert words in lines[1]
