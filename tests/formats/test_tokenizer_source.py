"""preprocess --tokenizer: tokenizer, case and framing of a model, run, dataset or vocabulary."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.command_modules import preprocess, vocab
from tests.paths import DATA_FILES
from tests.toy_runs import ToyRun
from tpu_tlm.config import PreprocessConfig, TokenizerConfig
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.tokenizer_source import with_tokenizer_of

SPEECH = DATA_FILES / "tokenizers" / "speech.txt"


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lower-case WordPiece vocabulary."""
    output = tmp_path_factory.mktemp("source") / "vocab"
    given = ["--subword_type", "wordpiece", "--vocab_size", "300", "--cased", "false"]
    vocab.main(["--input_files", str(SPEECH), "--output", str(output), *given])
    return output


def taken(path: Path, **options: object) -> tuple[TokenizerConfig, PreprocessConfig, str]:
    tokens = {k: v for k, v in options.items() if k in ("cased", "vocab", "subword_type")}
    rest = {k: v for k, v in options.items() if k not in tokens}
    config = PreprocessConfig(output="out", tokenizer=str(path), **rest)  # type: ignore[arg-type]
    return with_tokenizer_of(TokenizerConfig(**tokens), config)  # type: ignore[arg-type]


def test_a_vocabulary_frames_as_its_tokenizer_json(vocabulary: Path) -> None:
    tokens, config, line = taken(vocabulary)
    assert (config.prefix, config.suffix, config.eol_token) == ("[CLS]", "[SEP]", None)
    assert tokens.vocab == str(vocabulary) and "cased false" in line and "prefix [CLS]" in line


def test_a_dataset_and_a_model_give_what_they_were_made_with(
    vocabulary: Path, tmp_path: Path
) -> None:
    output = tmp_path / "data"
    given = ["--input_files", str(SPEECH), "--seq_length", "32", "--workers", "1"]
    frame = ["--prefix", "[CLS]", "--eol_token", "[SEP]"]
    preprocess.main([*given, "--vocab", str(vocabulary), *frame, "--output", str(output)])
    again = tmp_path / "again"
    preprocess.main([*given, "--tokenizer", str(output), "--output", str(again)])
    first, second = open_dataset(str(output)), open_dataset(str(again))
    assert second.metadata["prefix"] == "[CLS]" and second.metadata["suffix"] is None
    assert [s.sha256 for s in first.shards] == [s.sha256 for s in second.shards]


def test_a_run_gives_the_frame_of_its_examples(toy_run: ToyRun) -> None:
    tokens, config, _ = taken(toy_run.run_dir)
    dataset = open_dataset(str(toy_run.corpus.train))
    assert load_tokenizer(str(tokens.vocab)).fingerprint() == dataset.load_tokenizer().fingerprint()
    assert config.prefix == dataset.metadata.get("prefix")


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("cased", True, "cased: false there, true here"),
        ("prefix", "[MASK]", r"prefix: \[CLS\] there, \[MASK\] here"),
        ("suffix", "[MASK]", r"suffix: \[SEP\] there, \[MASK\] here"),
        ("eol_token", "[MASK]", r"eol_token: none there, \[MASK\] here"),
        ("subword_type", "bpe", "subword_type: wordpiece there, bpe here"),
        ("vocab", "other.txt", "vocab: .* there, other.txt here"),
    ],
)
def test_options_that_differ_are_named(
    vocabulary: Path, option: str, value: object, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        taken(vocabulary, **{option: value})
    assert taken(vocabulary, prefix="[CLS]", cased=False)[1].prefix == "[CLS]"


def test_what_holds_no_tokenizer_is_refused(vocabulary: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", vocabulary / "vocab.txt"):
        with pytest.raises(UsageError, match=r"--tokenizer|holds no tokenizer"):
            taken(path)
    damaged = tmp_path / "damaged"
    shutil.copytree(vocabulary, damaged)
    (damaged / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match=r"tokenizer\.json"):
        taken(damaged)
