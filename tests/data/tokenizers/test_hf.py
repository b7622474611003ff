"""Any tokenizer.json: equal to `transformers`, special ids from the files, words of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.command_modules import preprocess
from tests.hard_lines import hard_lines
from tests.paths import DATA_FILES
from tpu_tlm.config import TokenizerConfig
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.data.tokenizers.base import Encoded, Tokenizer
from tpu_tlm.data.tokenizers.factory import load_tokenizer, make_tokenizer
from tpu_tlm.data.tokenizers.hf import HfTokenizer
from tpu_tlm.data.tokenizers.hf_files import read_hf_tokenizer
from tpu_tlm.errors import UsageError

SPEECH = DATA_FILES / "tokenizers" / "speech.txt"
LINES = int(os.environ.get("HARD_LINES", "1000"))  # 12000 for the whole check
KINDS = ("roberta", "gpt2", "wordpiece", "xlm-r", "albert", "t5", "camembert")


def corpus() -> list[str]:
    speech = [line for line in SPEECH.read_text().split("\n") if line.strip()]
    return [*speech, *hard_lines(60, seed=99)]


def _byte_level(directory: Path, special: list[str]) -> None:
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        corpus(), vocab_size=600, min_frequency=2, special_tokens=special, show_progress=False
    )
    trained.save_model(str(directory))


def _sentencepiece(directory: Path, name: str, **options: Any) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_prefix=str(directory / "m"),
        vocab_size=900,
        character_coverage=0.995,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    (directory / "m.model").rename(directory / name)


def _accented_wordpiece(directory: Path) -> None:
    """BERT's WordPiece with accents kept, [PAD] in the middle, own special and [unused] tokens."""
    lines = (DATA_FILES / "tokenizers" / "vocab.txt").read_text().split("\n")[:-1]
    lines.remove("[PAD]")
    lines[30:30] = ["[PAD]", "[unused0]", "[unused1]", "é", "##é"]
    (directory / "vocab.txt").write_text("".join(f"{t}\n" for t in dict.fromkeys(lines)))
    settings = {"do_lower_case": True, "strip_accents": False, "tokenizer_class": "BertTokenizer"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def model_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories of small tokenizers by kind, as `transformers` saves them."""
    transformers = pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("tokenizers")
    found = {}
    classes = {
        "roberta": "RobertaTokenizerFast",
        "gpt2": "GPT2TokenizerFast",
        "wordpiece": "BertTokenizerFast",
        "xlm-r": "XLMRobertaTokenizerFast",
        "albert": "AlbertTokenizerFast",
        "t5": "T5TokenizerFast",
        "camembert": "CamembertTokenizerFast",
    }
    for kind, name in classes.items():
        raw, saved = root / f"raw-{kind}", root / kind
        raw.mkdir()
        if kind == "roberta":
            _byte_level(raw, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
        elif kind == "gpt2":
            _byte_level(raw, ["<|endoftext|>"])
        elif kind == "wordpiece":
            _accented_wordpiece(raw)
        elif importlib.util.find_spec("sentencepiece") is None:
            continue
        elif kind == "albert":
            symbols = {"control_symbols": ["[CLS]", "[SEP]"], "user_defined_symbols": ["[MASK]"]}
            ids = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1}
            _sentencepiece(raw, "spiece.model", **ids, **symbols)
        elif kind == "t5":
            _sentencepiece(raw, "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
        else:
            _sentencepiece(raw, "sentencepiece.bpe.model")
        getattr(transformers, name).from_pretrained(str(raw)).save_pretrained(str(saved))
        found[kind] = saved
    return found


def rows(encoded: Encoded) -> list[list[int]]:
    cuts = encoded.offsets
    return [encoded.ids[a:b].tolist() for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def made(directory: Path) -> Tokenizer:
    return make_tokenizer(TokenizerConfig(subword_type="hf", vocab=str(directory)))


def there(model_dirs: dict[str, Path], kind: str) -> Path:
    if kind not in model_dirs:
        pytest.skip("sentencepiece is not installed")
    return model_dirs[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_equal_those_of_transformers(model_dirs: dict[str, Path], kind: str) -> None:
    from transformers import AutoTokenizer

    directory = there(model_dirs, kind)
    theirs, ours = AutoTokenizer.from_pretrained(str(directory)), made(directory)
    lines = hard_lines(LINES, seed=5)
    expected = theirs(lines, add_special_tokens=False)["input_ids"]
    encoded = ours.encode_lines([line.encode() for line in lines])
    differ = [i for i, row in enumerate(rows(encoded)) if row != expected[i]]
    assert not differ, (len(differ), lines[differ[0]])
    assert [ours.encode(line) for line in lines[:50]] == expected[:50]


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_those_of_the_pre_tokenizer(model_dirs: dict[str, Path], kind: str) -> None:
    from transformers import AutoTokenizer

    directory = there(model_dirs, kind)
    theirs, ours = AutoTokenizer.from_pretrained(str(directory)), made(directory)
    lines = [*corpus()[:60], *hard_lines(100, seed=6)]
    encoded = ours.encode_lines([line.encode() for line in lines])
    for index, encoding in enumerate(theirs(lines, add_special_tokens=False).encodings):
        words = encoding.word_ids
        expected = [i == 0 or word is None or word != words[i - 1] for i, word in enumerate(words)]
        a, b = encoded.offsets[index : index + 2]
        assert encoded.word_start[a:b].tolist() == expected, lines[index]


@pytest.mark.parametrize("kind", KINDS)
def test_special_ids_are_those_of_the_files(model_dirs: dict[str, Path], kind: str) -> None:
    from transformers import AutoTokenizer

    directory = there(model_dirs, kind)
    theirs, ours = AutoTokenizer.from_pretrained(str(directory)), made(directory)
    assert len(ours.tokens) == len(theirs)
    assert all(theirs.convert_ids_to_tokens(i) == t for i, t in enumerate(ours.tokens))
    if theirs.mask_token_id is None:
        with pytest.raises(UsageError, match="mask"):
            ours.mask_id  # noqa: B018
    else:
        assert ours.mask_id == theirs.mask_token_id
    assert ours.sep_id == (theirs.sep_token_id or theirs.eos_token_id)
    if kind == "gpt2":
        assert ours.tokens[ours.pad_id] == "ÿ" and ours.pad_id != ours.sep_id
    else:
        assert ours.pad_id == theirs.pad_token_id and ours.unk_id == theirs.unk_token_id
    assert set(theirs.all_special_ids) | {ours.pad_id} <= set(ours.special_ids)


def test_a_saved_tokenizer_is_loaded(model_dirs: dict[str, Path], tmp_path: Path) -> None:
    for kind, directory in model_dirs.items():
        ours = made(directory)
        ours.save(str(tmp_path / kind))
        loaded = load_tokenizer(str(tmp_path / kind))
        assert loaded.description() == ours.description() and loaded.tokens == ours.tokens
        again = make_tokenizer(TokenizerConfig(vocab=str(tmp_path / kind)))
        assert again.fingerprint() == ours.fingerprint()


def test_gpt2s_own_files_are_read(model_dirs: dict[str, Path], tmp_path: Path) -> None:
    for old, new in (("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")):
        shutil.copy(model_dirs["gpt2"].parent / "raw-gpt2" / old, tmp_path / new)
    lines = [line.encode() for line in hard_lines(200, seed=8)]
    of_files = read_hf_tokenizer(str(tmp_path)).encode_lines(lines)
    np.testing.assert_array_equal(of_files.ids, made(model_dirs["gpt2"]).encode_lines(lines).ids)


SENTENCEPIECE = {
    "unigram": {},
    "bpe": {"model_type": "bpe"},
    "bytes": {"byte_fallback": True},
    "bpe-bytes": {"model_type": "bpe", "byte_fallback": True},
    "t5": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "symbols": {"user_defined_symbols": ["<sep>", "xx"], "control_symbols": ["[CLS]"]},
    "as-is": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "no-prefix": {"add_dummy_prefix": False},
}


@pytest.mark.parametrize("kind", SENTENCEPIECE)
def test_a_sentencepiece_file_is_read_by_itself(kind: str, tmp_path: Path) -> None:
    """Equal to the library `sentencepiece`, by itself, in a directory and saved."""
    sentencepiece = pytest.importorskip("sentencepiece")
    path = tmp_path / "spiece.model"
    _sentencepiece(tmp_path, path.name, **SENTENCEPIECE[kind])
    ours = make_tokenizer(TokenizerConfig(vocab=str(path)))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    lines = hard_lines(LINES, seed=11)
    expected = theirs.encode(lines)
    encoded = ours.encode_lines([line.encode() for line in lines])
    differ = [i for i, row in enumerate(rows(encoded)) if row != expected[i]]
    assert not differ, (len(differ), lines[differ[0]])
    for index in (0, 1, 2):
        a, b = encoded.offsets[index : index + 2]
        starts = [theirs.id_to_piece(i).startswith("\u2581") for i in expected[index]]
        assert encoded.word_start[a + 1 : b].tolist() == starts[1:]
    assert [ours.tokens[i] for i in range(len(theirs))] == [
        theirs.id_to_piece(i) for i in range(len(theirs))
    ]
    assert make_tokenizer(TokenizerConfig(vocab=str(tmp_path))).fingerprint() == ours.fingerprint()
    ours.save(str(tmp_path / "saved"))
    again = load_tokenizer(str(tmp_path / "saved"))
    assert rows(again.encode_lines([line.encode() for line in lines[:50]])) == expected[:50]
    assert ours.encode("a</s>b") == [*theirs.encode("a"), ours.sep_id, *theirs.encode("b")]


@pytest.mark.parametrize("kind", ["roberta", "gpt2", "albert"])
def test_text_becomes_a_dataset(model_dirs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    directory = there(model_dirs, kind)
    given = ["--input_files", str(SPEECH), "--output", str(tmp_path / "out"), "--workers", "1"]
    preprocess.main([*given, "--vocab", str(directory), "--seq_length", "64", "--shuffle", "false"])
    dataset = open_dataset(str(tmp_path / "out"))
    assert dataset.tokenizer == made(directory).description()
    assert dataset.metadata["unknown_tokens"] == 0


@pytest.mark.parametrize("kind", ["roberta", "gpt2", "xlm-r", "albert"])
def test_text_goes_through_training_to_transformers(
    model_dirs: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """Text, dataset, two steps, export: `transformers` splits as with the first tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    from tests.toy_runs import fit
    from tpu_tlm.config import Config, cli
    from tpu_tlm.formats.load import load
    from tpu_tlm.formats.save import save

    directory, data, run = there(model_dirs, kind), tmp_path / "data", tmp_path / "run"
    given = ["--input_files", str(SPEECH), "--output", str(data), "--workers", "1"]
    preprocess.main([*given, "--tokenizer", str(directory), "--seq_length", "32"])
    given = ["--preset", "gpt2" if kind == "gpt2" else "bert-base", "--train_dir", str(data)]
    given += ["--run_dir", str(run), "--steps", "2", "--batch_size", "4", "--warmup_steps", "0"]
    given += ["--num_layers", "1", "--d_model", "16", "--d_ff", "32", "--num_heads", "2"]
    fit(Config(*cli.parse("toy", "", Config.groups(), [*given, "--distribute", "none"])))
    save(load(str(run)), str(tmp_path / "out"), "hf")
    before = AutoTokenizer.from_pretrained(str(directory))
    after = AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    lines = hard_lines(200, seed=12)
    for special in (False, kind != "gpt2"):
        theirs, ours = (t(lines, add_special_tokens=special)["input_ids"] for t in (before, after))
        assert theirs == ours
    model = AutoModel.from_pretrained(str(tmp_path / "out"))
    assert model.config.vocab_size >= len(after) == len(before)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"model": {"type": "BPE"}}', '{"a":' * 3000 + "1" + "}" * 3000]
)
def test_damaged_files_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UsageError, match=r"tokenizer\.json: "):
        read_hf_tokenizer(str(tmp_path))
    (tmp_path / "x.model").write_bytes(b"\x0a\xff\xff")
    with pytest.raises(UsageError, match=r"x\.model: is no SentencePiece model"):
        read_hf_tokenizer(str(tmp_path / "x.model"))
    with pytest.raises(UsageError, match="holds no tokenizer"):
        read_hf_tokenizer(str(tmp_path.parent))


def _small(**parts: Any) -> Any:
    """A WordPiece pipeline of a few words with these parts."""
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import models, pre_tokenizers

    words = ["[UNK]", "[PAD]", "a", "b", "x", "_", "foo", "bar", "\u2581", "\u2581a", "\u2581b"]
    pieces = [*words, *(f"##{c}" for c in "abx_or\u2581")]
    pipeline = Pipeline(models.WordPiece({t: i for i, t in enumerate(pieces)}, unk_token="[UNK]"))
    pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    for name, part in parts.items():
        setattr(pipeline, name, part)
    return pipeline


def _as_the_library_splits(data: str, lines: list[str]) -> bool:
    from tokenizers import Tokenizer as Pipeline

    theirs = Pipeline.from_str(data).encode_batch(lines, add_special_tokens=False)
    ours = HfTokenizer({"tokenizer.json": data.encode()}, name="tokenizer.json")
    found = rows(ours.encode_lines([line.encode() for line in lines]))
    return found == [one.ids for one in theirs]


def test_normalizers_that_make_or_remove_spaces_are_run_over_the_whole_line() -> None:
    from tokenizers import Regex, normalizers, pre_tokenizers

    metaspace = pre_tokenizers.Metaspace()
    replace, squeeze = normalizers.Replace, normalizers.Replace(Regex(" {2,}"), " ")
    for normalizer in (
        *(replace(old, new) for old, new in (("x", ""), ("x", "\u2581"), ("_", " "), ("b", "x y"))),
        normalizers.Sequence([replace("x", " "), normalizers.Strip()]),
        normalizers.Sequence([replace("x", ""), squeeze]),
        normalizers.Sequence([replace("x", "\u0301"), normalizers.StripAccents()]),
    ):
        data = _small(normalizer=normalizer, pre_tokenizer=metaspace).to_str()
        assert _as_the_library_splits(data, ["a x b", "x a", "a x", "a _ b", "foo b bar"])
    marked = _small(pre_tokenizer=pre_tokenizers.Metaspace(replacement="_"))
    assert _as_the_library_splits(marked.to_str(), ["a _ b", "_ a", "a b"])


def test_added_tokens_of_several_words_are_found_after_normalization() -> None:
    from tokenizers import AddedToken, normalizers

    accents = normalizers.BertNormalizer(lowercase=True)
    for normalizer in (accents, normalizers.Replace("x", "b")):
        pipeline = _small(normalizer=normalizer)
        pipeline.add_tokens([AddedToken("foo bar", normalized=True), AddedToken("b b")])
        lines = ["Foo b\u00e1r a", "a foo bar", "b x a", "f\u00f6o  bar"]
        assert _as_the_library_splits(pipeline.to_str(), lines)


def test_parts_without_a_type_are_read_as_the_library_reads_them() -> None:
    parts = {"strip_left": True, "strip_right": True}, {"pattern": {"String": "a"}, "content": "b"}
    for part in parts:
        described = json.loads(_small().to_str())
        described["normalizer"] = part
        assert _as_the_library_splits(json.dumps(described), [" a b ", "a a"])


def test_a_vocabulary_without_its_unknown_token_is_named_at_the_first_such_word() -> None:
    described = json.loads(_small().to_str())
    del described["model"]["vocab"]["[UNK]"]
    files = {"tokenizer.json": json.dumps(described).encode()}
    ours = HfTokenizer(files, name="m/tokenizer.json")
    for split in (lambda: ours.encode("zz"), lambda: ours.encode_lines([b"zz"])):
        with pytest.raises(UsageError, match=r"m/tokenizer\.json: cannot split.*\[UNK\]"):
            split()


def test_dropout_is_not_used_and_said(model_dirs: dict[str, Path]) -> None:
    described = json.loads((model_dirs["gpt2"] / "tokenizer.json").read_text())
    plain = HfTokenizer({"tokenizer.json": json.dumps(described).encode()})
    described["model"]["dropout"] = 0.5
    ours = HfTokenizer({"tokenizer.json": json.dumps(described).encode()})
    assert plain.notes == () and "dropout" in ours.notes[0]
    assert ours.encode("the United States") == plain.encode("the United States")
