"""Situations of training and model files from the field, each by its own commands: right values.

The folders train-* lie in ../shared/field next to the project; without them the tests are skipped.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest

import tpu_tlm as tlm
from tests import hf
from tests.command_modules import convert, evaluate, predict, preprocess, train, vocab
from tests.test_field_files import FIELD
from tests.toy import BARE
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.errors import run_command

SMALL = "--d_model 16 --d_ff 16 --num_heads 2 --num_layers 1".split()
FRAMED = "--prefix [CLS] --suffix [SEP] --tok_on_eol none".split()
WORDS = "--input_files text.txt --subword_type wordpiece --vocab vocab.txt --cased false".split()
BERT = [
    *SMALL,
    *"--embed_type learned-positional --token_type_vsz 2 --rpr_k 0 --mlm_head bert".split(),
    *"--embeddings_reduction sum-layer-norm --transformer_type post-layer-norm".split(),
    *"--output_bias --activation gelu-exact".split(),
]


@pytest.fixture
def here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder that the test's mark names, as working directory."""
    (name,) = request.node.get_closest_marker("folder").args
    if not (FIELD / name).is_dir():
        pytest.skip(f"{FIELD / name} is not here")
    work = Path(shutil.copytree(FIELD / name, tmp_path / "work"))
    monkeypatch.chdir(work)
    return work


def done(main: Any, *argv: str) -> None:
    assert run_command(main, list(argv)) == 0


def data(*flags: str) -> None:
    done(preprocess.main, *WORDS, "--nctx", "16", "--output", "d", "--workers", "1", *flags)


def trained(*flags: str, code: int = 0) -> None:
    argv = ["--train_dir", "d", "--basedir", "run", "--batch_size", "4", "--distribute", "none"]
    assert run_command(train.main, [*argv, *BARE, "--xla", "false", *flags]) == code


def tokenizer_of(path: str) -> Any:
    pytest.importorskip("transformers")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


def guesses(path: str, text: str, count: int) -> list[tuple[str, float]]:
    (found,) = tlm.load(path).fill_mask(text, top_k=count)
    return [(guess.token, guess.probability) for guess in found]


def assert_guessed(path: str, expected: dict[str, Any]) -> None:
    found = guesses(path, expected["text"], len(expected["top"]))
    assert [token for token, _ in found] == [token for token, _ in expected["top"]]
    for (_, ours), (_, theirs) in zip(found, expected["top"], strict=True):
        assert ours == pytest.approx(theirs, abs=2e-6)


def test_every_folder_has_a_test(request: pytest.FixtureRequest) -> None:
    if not FIELD.is_dir():
        pytest.skip(f"{FIELD} is not here")
    marks = [
        mark.args[0]
        for value in globals().values()
        for mark in getattr(value, "pytestmark", ())
        if mark.name == "folder"
    ]
    assert sorted(marks) == sorted(path.name for path in FIELD.glob("train-*"))


@pytest.mark.folder("train-bpe-no-hf-tokenizer")
@pytest.mark.parametrize("size", [200, 2000, 8000])
def test_a_learned_bpe_is_a_tokenizer_of_transformers(here: Path, size: int) -> None:
    (here / "english.txt").write_text("\n\n".join(topics.values()) * 2)
    learned = ["--input_files", "english.txt", "--subword_type", "bpe", "--output", "v"]
    done(vocab.main, *learned, "--vocab_size", str(size))
    units = {line.split()[0] for line in (here / "v" / "vocab").read_text().splitlines()}
    made = {"".join(line.split()[:2]) for line in (here / "v" / "codes").read_text().splitlines()}
    pieces = {
        piece.removesuffix("</w>") if piece.endswith("</w>") else f"{piece}@@" for piece in made
    }
    assert not pieces - units
    ids = tokenizer_of("v")("we will")["input_ids"]
    assert len(ids) >= 2 and ids == load_tokenizer("v").encode("we will")


@pytest.mark.folder("train-causal-hf-eos")
def test_a_causal_export_appends_no_end(here: Path) -> None:
    data()
    flags = "--steps 20 --lr 1e-2 --causal --embed_type learned-positional --rpr_k 0".split()
    trained(*flags, *SMALL, "--layer_norm_eps", "1e-5")
    done(convert.main, "run", "hf", "--to", "hf")
    tokenizer = tokenizer_of("hf")
    ids = tokenizer("the heat of")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["the", "heat", "of"]
    assert tokenizer.eos_token == "[SEP]"
    pytest.importorskip("torch")
    model = hf.load("GPT2LMHeadModel", "hf")
    import torch

    written = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=6)
    (ours,) = tlm.load("run").generate(["the heat of"], temperature=0, max_tokens=6)
    text = tokenizer.decode(written[0][len(ids) :], skip_special_tokens=True)
    assert ours.text.split() == ["the", "heat", "of", *text.split()] and text


@pytest.mark.folder("train-evaluate-precision")
def test_the_precision_of_an_evaluation_is_used(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data(*FRAMED)
    trained("--steps", "20", "--lr", "1e-2", *BERT)
    losses = {}
    for flags in ("--precision float32", "--precision bfloat16", "--xla false"):
        capsys.readouterr()
        done(evaluate.main, "--model", "run", "--data", "d", "--distribute", "none", *flags.split())
        losses[flags] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["loss"]
    exact, half, plain = losses.values()
    assert half != exact and half == pytest.approx(exact, rel=2e-2)
    assert plain == pytest.approx(exact, rel=1e-5)


@pytest.mark.folder("train-hf-added-tokens")
def test_added_tokens_are_read_and_kept(here: Path) -> None:
    expected = json.loads((here / "expected.json").read_text())
    assert_guessed("model", expected)
    done(convert.main, "model", "out", "--to", "hf")
    for path in ("model", "out"):
        found = tokenizer_of(path)(expected["text"])
        assert found["input_ids"] == expected["ids"], path
    assert_guessed("out", expected)


@pytest.mark.folder("train-hf-japanese-tokenizer")
def test_a_tokenizer_that_is_not_read_is_carried_along(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "東京大学で自然言語処理を[MASK]する。"
    code = run_command(predict.main, ["fill-mask", "--model", "model", "--text", text])
    said = capsys.readouterr()
    assert code == 2 and "BertJapaneseTokenizer" in said.err
    done(convert.main, "model", "out", "--to", "hf")
    assert "BertJapaneseTokenizer" in capsys.readouterr().out
    for name in ("tokenizer_config.json", "vocab.txt"):
        assert (here / "out" / name).read_bytes() == (here / "model" / name).read_bytes()
    assert not (here / "out" / "tokenizer.json").exists()


@pytest.mark.folder("train-hf-padded-vocab")
def test_rows_without_a_token_are_taken(here: Path) -> None:
    expected = json.loads((here / "expected.json").read_text())
    assert_guessed("model", expected)
    done(convert.main, "model", "x.npz")
    assert tlm.load("x.npz").spec.vocab_size == expected["rows"]
    assert_guessed("x.npz", expected)


@pytest.mark.folder("train-init-from-refused-first")
def test_a_model_is_continued_with_its_head_in_one_command(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data(*FRAMED)
    wrong = ("--init_from", "model", "--steps", "2", "--warmup_steps", "1")
    trained(*wrong, "--d_model", "512", code=2)
    assert "d_model" in capsys.readouterr().err
    trained(*wrong)
    said = capsys.readouterr().out
    (head,) = [line for line in said.splitlines() if line.split()[:1] == ["head"]]
    assert "loaded" in head and "not used: head" not in said
    done(convert.main, "run", "hf", "--to", "hf")
    assert json.loads((here / "hf" / "config.json").read_text())["architectures"] == [
        "BertForMaskedLM"
    ]


RANGES = [
    "--mask_rate 15",
    "--mask_rate 0",
    "--mask_rate -0.5",
    "--mask_token_rate 0.9 --mask_random_rate 0.3",
    "--dropout 1",
    "--dropout 1.5",
    "--dropout -0.2",
    "--layer_drop 1",
    "--mask_mode span --span_mean 0",
    "--save_steps -5",
    "--steps 0",
    "--epochs -1",
]


@pytest.mark.folder("train-option-ranges")
def test_what_is_out_of_range_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data()
    for given in RANGES:
        words = given.split()
        steps = [] if words[0] in ("--steps", "--epochs") else ["--steps", "2"]
        trained(*steps, *SMALL, *words, code=2)
        (error,) = [li for li in capsys.readouterr().err.splitlines() if li.startswith("error: ")]
        assert words[-2] in error or words[0] in error, error
        assert not (here / "run").exists(), given
    for flag, value in (("--eval_mask_rate", "0"), ("--batch_size", "0")):
        assert run_command(evaluate.main, ["--model", "run", "--data", "d", flag, value]) == 2
        assert flag in capsys.readouterr().err


@hf.needs_torch
@pytest.mark.folder("train-untied-export")
@pytest.mark.parametrize("causal", [False, True])
def test_an_untied_head_leaves_whole(here: Path, causal: bool) -> None:
    import torch

    data(*FRAMED)
    own = ["--causal", *SMALL, *"--embed_type learned-positional --rpr_k 0".split()]
    flags = [*own, "--layer_norm_eps", "1e-5"] if causal else BERT
    trained("--steps", "20", "--lr", "1e-2", "--tie_weights", "false", *flags)
    done(convert.main, "run", "x.npz")
    done(convert.main, "run", "hf", "--to", "hf")
    model = hf.load("GPT2LMHeadModel" if causal else "BertForMaskedLM", "hf")
    ids = np.array([[2, 80, 83, 81, 82, 77, 3]])
    ours = tlm.load("run").keras({"x": ids.astype(np.int32)}).numpy()
    with torch.no_grad():
        theirs = model(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(ours[..., : theirs.shape[-1]], theirs, atol=1e-5)
    assert math.isfinite(float(ours.sum()))
