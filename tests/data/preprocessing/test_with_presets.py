"""Preprocessing with a preset: what the tokenizer's files say wins over the preset."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.paths import DATA_FILES
from tpu_tlm import api
from tpu_tlm.config.presets import PRESETS
from tpu_tlm.data.dataset.metadata import read_metadata
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.errors import UsageError

FILES = DATA_FILES / "tokenizers"
LINE = "the old River runs Past a small house"
# The parts of a vocabulary that can be given in place of its directory.
PARTS = {
    "bpe": {"vocab": "vocab", "codes": "codes"},
    "wordpiece": {"vocab": "vocab.txt"},
    "byte-bpe": {"vocab": "tokenizer.json"},
}
COUNT = {"seq_length": 16, "workers": 1}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    turns = f"{LINE}\tnobody in it Sleeps for long\n"
    path.write_text("".join(f"{turns}{LINE} {word}\tyes\n" for word in LINE.split()) * 4)
    return path


@pytest.mark.parametrize("name", PRESETS)
def test_a_vocabulary_of_the_preset_is_read_as_directory_and_as_files(name, text, tmp_path):
    vocab = tmp_path / "vocab"
    learned = api.learn_tokenizer(text, vocab, preset=name, vocab_size=300, workers=1)
    parts = {k: vocab / v for k, v in PARTS[PRESETS[name].text["subword_type"]].items()}
    for number, given in enumerate(({"vocab": vocab}, parts)):
        data = tmp_path / str(number)
        api.preprocess(text, data, preset=name, **given, **COUNT)
        made = load_tokenizer(str(data / "tokenizer"))
        assert made.tokens == learned.tokens
        assert made.encode(LINE) == learned.encode(LINE)
        metadata = read_metadata(str(data))
        assert metadata is not None
        frame = [metadata[key] for key in ("prefix", "suffix")]
        assert frame == [PRESETS[name].text.get(key) for key in ("prefix", "suffix")]


def _made(text: Path, data: Path, preset: str, **options: object) -> tuple[list[str], str]:
    """The tokens of a dataset's tokenizer, and its case and kind."""
    api.preprocess(text, data, preset=preset, **options, **COUNT)
    found = load_tokenizer(str(data / "tokenizer"))
    return found.tokens, f"{found.kind} {'cased' if found.cased else 'uncased'}"


def test_files_win_over_a_preset_and_a_line_says_so(text, tmp_path, capsys):
    from tests.command_modules import preprocess

    vocab = tmp_path / "vocab"
    learned = api.learn_tokenizer(
        text, vocab, subword_type="wordpiece", vocab_size=80, cased=True, workers=1
    )
    common = ["--input_files", str(text), "--seq_length", "16", "--workers", "1"]
    argv = [*common, "--vocab", str(vocab), "--output", str(tmp_path / "data")]
    assert preprocess.main([*argv, "--preset", "bert-base"]) == 0
    said = capsys.readouterr().err
    assert f"{vocab}: cased true" in said and "preset's is false" in said
    assert load_tokenizer(str(tmp_path / "data" / "tokenizer")).tokens == learned.tokens
    with pytest.raises(UsageError, match="--cased false: contradicts"):
        preprocess.main([*argv, "--preset", "bert-base", "--cased", "false"])
    # A preset of another kind, and one for the text of which no file says the case.
    frame = {"prefix": "[CLS]", "suffix": "[SEP]"}
    assert _made(text, tmp_path / "a", "roberta-base", vocab=vocab, **frame)[1] == "wordpiece cased"
    alone = tmp_path / "alone" / "vocab.txt"
    alone.parent.mkdir()
    alone.write_bytes((vocab / "vocab.txt").read_bytes())
    assert _made(text, tmp_path / "b", "bert-base", vocab=alone)[1] == "wordpiece uncased"
    assert _made(text, tmp_path / "c", "bert-base", vocab=alone.parent)[1] == "wordpiece uncased"
    assert _made(text, tmp_path / "d", "bert-base", vocab=alone, cased=True)[1].endswith(" cased")


def test_files_of_fastbpe_go_with_a_preset_of_another_kind(text, tmp_path):
    files = {"codes": FILES / "codes", "vocab": FILES / "vocab"}
    given = {**files, "suffix": "<EOS>"}
    tokens, kind = _made(text, tmp_path / "data", "modernbert-tiny", **given)
    assert kind == "bpe cased" and tokens[4:6] == ["[CLS]", "[MASK]"]
    with pytest.raises(UsageError, match="codes.*acts only with subword_type bpe"):
        _made(text, tmp_path / "b", "modernbert-tiny", **given, subword_type="wordpiece")


def test_a_token_that_only_the_preset_names_is_an_error_that_says_it(text, tmp_path):
    vocab = tmp_path / "vocab"
    api.learn_tokenizer(text, vocab, preset="bert-tiny", vocab_size=80, workers=1)
    with pytest.raises(UsageError, match="preset roberta-base: its prefix is <s>.*give prefix"):
        _made(text, tmp_path / "data", "roberta-base", vocab=vocab)
    with pytest.raises(UsageError, match="prefix <s>: the vocabulary has no such token"):
        _made(text, tmp_path / "data", "bert-base", vocab=vocab, prefix="<s>")


def test_the_tokenizer_of_a_model_wins_over_a_preset(text, tmp_path):
    vocab, data = tmp_path / "vocab", tmp_path / "data"
    learned = api.learn_tokenizer(text, vocab, preset="roberta-base", vocab_size=300, workers=1)
    _made(text, data, "roberta-base", vocab=vocab)
    for source in (vocab, data):
        output = tmp_path / f"of-{source.name}"
        tokens, _ = _made(text, output, "bert-tiny", tokenizer=source)
        assert tokens == learned.tokens
        metadata = read_metadata(str(output))
        assert metadata is not None and (metadata["prefix"], metadata["suffix"]) == ("<s>", "</s>")
    for given in ({"cased": False}, {"prefix": "</s>"}, {"extra_tokens": ["<A>"]}):
        with pytest.raises(UsageError, match=next(iter(given))):
            _made(text, tmp_path / "c", "bert-tiny", tokenizer=vocab, **given)
