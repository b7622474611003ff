"""Tokenizer files: WordPiece both ways, fastBPE where it can be exact, the rest carried along."""

from __future__ import annotations

import dataclasses
import json

import pytest
from tokenizers import Tokenizer as Pipeline

from tests.paths import DATA_FILES
from tpu_tlm.config import ModelConfig, TokenizerConfig
from tpu_tlm.data.tokenizers.factory import make_tokenizer
from tpu_tlm.formats.huggingface.tokenizer_read import FoundTokenizer, framed, read_tokenizer
from tpu_tlm.formats.huggingface.tokenizer_write import bpe_pipeline, tokenizer_files
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.tasks.examples import Framer
from tpu_tlm.tasks.read import Row

FILES = DATA_FILES / "tokenizers"
TEXTS = [
    *(FILES / "speech.txt").read_text().splitlines()[:40],
    "Café naïve 東京 don't [MASK] x\u3000y",
    "",
    " a\u00a0b ",
]
SPEC = ModelSpec(ModelConfig(), 10, 128)


def wordpiece(cased):
    return make_tokenizer(
        TokenizerConfig(subword_type="wordpiece", vocab=str(FILES / "vocab.txt"), cased=cased)
    )


def bpe(directory, codes, vocab, cased=True):
    (directory / "codes").write_text("".join(f"{line} 1\n" for line in codes))
    (directory / "vocab").write_text("".join(f"{token} 1\n" for token in vocab))
    return make_tokenizer(
        TokenizerConfig(codes=str(directory / "codes"), vocab=str(directory / "vocab"), cased=cased)
    )


def with_frame(tokenizer):
    frame = (tokenizer.cls_id, tokenizer.sep_id)
    return framed(SPEC, FoundTokenizer(tokenizer, frame=frame), None, None)


@pytest.mark.parametrize("cased", [True, False])
def test_wordpiece_pipeline_frames_and_splits_alike(cased):
    tokenizer = wordpiece(cased)
    spec = with_frame(tokenizer)
    found, notes = tokenizer_files(tokenizer, spec)
    pipeline = Pipeline.from_str(found["tokenizer.json"].decode())
    for text in TEXTS:
        assert pipeline.encode(text).ids == [
            tokenizer.cls_id,
            *tokenizer.encode(text),
            tokenizer.sep_id,
        ]
    assert (
        not notes
        and json.loads(found["tokenizer_config.json"])["tokenizer_class"] == "BertTokenizer"
    )
    pair = pipeline.encode("we", "they")
    assert pair.type_ids == [0] * (pair.ids.index(tokenizer.sep_id) + 1) + [1] * (
        len(pair.ids) - pair.ids.index(tokenizer.sep_id) - 1
    )


def test_of_a_causal_model_the_end_stands_between_the_texts_of_a_pair():
    """As in the fine-tuning of it; a text alone has no end, so that a prompt is continued."""
    tokenizer = wordpiece(True)
    spec = dataclasses.replace(SPEC, kind="clm", prefix_id=None, eol_id=tokenizer.sep_id)
    found, _ = tokenizer_files(tokenizer, spec)
    pipeline = Pipeline.from_str(found["tokenizer.json"].decode())
    ids = pipeline.encode("we", "they").ids
    assert pipeline.encode("we").ids[-1] != tokenizer.sep_id
    assert ids.count(tokenizer.sep_id) == 1 and ids[-1] != tokenizer.sep_id
    framed = Framer(spec, tokenizer, pairs="joint")([Row("we", "they", None, 1)])
    assert framed.ids[0].tolist() == ids


def test_the_frame_is_that_of_the_training_examples():
    tokenizer = wordpiece(True)
    for frame in ({"eol_id": tokenizer.sep_id}, {"prefix_id": tokenizer.cls_id}, {}):
        found, _ = tokenizer_files(tokenizer, dataclasses.replace(SPEC, **frame))
        pipeline = Pipeline.from_str(found["tokenizer.json"].decode())
        before, after = (
            [i] if (i := frame.get(name)) is not None else [] for name in ("prefix_id", "eol_id")
        )
        assert pipeline.encode(TEXTS[0]).ids == [*before, *tokenizer.encode(TEXTS[0]), *after]


@pytest.mark.parametrize("cased", [True, False])
@pytest.mark.parametrize("left", ["tokenizer.json", "vocab.txt"])
def test_wordpiece_is_read_back(cased, left, tmp_path):
    tokenizer = wordpiece(cased)
    found, _ = tokenizer_files(tokenizer, with_frame(tokenizer))
    for name in (left, "tokenizer_config.json"):
        (tmp_path / name).write_bytes(found[name])
    hashes: dict[str, str] = {}
    back = read_tokenizer(str(tmp_path), hashes)
    assert back.tokenizer is not None and set(hashes) == {left, "tokenizer_config.json"}
    assert (back.tokenizer.tokens, back.tokenizer.cased) == (tokenizer.tokens, cased)


def test_a_length_that_was_saved_in_a_tokenizer_changes_nothing(tmp_path):
    """As all-MiniLM-L6-v2 has it: texts are padded to 128 tokens and cut there."""
    tokenizer = wordpiece(False)
    found, _ = tokenizer_files(tokenizer, with_frame(tokenizer))
    pipeline = Pipeline.from_str(found["tokenizer.json"].decode())
    for padding, cut in (({"length": 128}, 128), ({}, 3), ({"direction": "left", "length": 9}, 9)):
        pipeline.enable_padding(**padding)
        pipeline.enable_truncation(cut)
        (tmp_path / "tokenizer.json").write_text(pipeline.to_str())
        back = read_tokenizer(str(tmp_path), {})
        assert back.tokenizer is not None and back.tokenizer.kind == "wordpiece"
        assert back.frame == (tokenizer.cls_id, tokenizer.sep_id) and not back.notes


def test_a_frame_that_is_not_kept_is_noted(tmp_path):
    from tokenizers import processors

    tokenizer = wordpiece(False)
    found, _ = tokenizer_files(tokenizer, with_frame(tokenizer))
    pipeline = Pipeline.from_str(found["tokenizer.json"].decode())
    pipeline.post_processor = processors.TemplateProcessing(
        single="[CLS] [MASK] $A [SEP]",
        special_tokens=[(t, pipeline.token_to_id(t)) for t in ("[CLS]", "[MASK]", "[SEP]")],
    )
    (tmp_path / "tokenizer.json").write_text(pipeline.to_str())
    back = read_tokenizer(str(tmp_path), {})
    assert back.frame is None and "several tokens" in back.notes[0]


def test_case_is_seen_in_a_bare_vocabulary(tmp_path):
    base = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"
    for words, cased in (("the\nreich\n", False), ("the\nReich\n", True)):
        (tmp_path / "vocab.txt").write_text(base + words)
        assert read_tokenizer(str(tmp_path), {}).tokenizer.cased is cased


def test_another_tokenizer_json_is_run_by_the_library(tmp_path):
    from tokenizers import models, pre_tokenizers

    pipeline = Pipeline(models.BPE({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}, [("a", "b")]))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    (tmp_path / "tokenizer.json").write_text(pipeline.to_str())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    found = read_tokenizer(str(tmp_path), {})
    assert found.tokenizer is not None and found.tokenizer.kind == "hf"
    assert found.tokenizer.encode("abba") == [2, 1, 0] and found.frame == (None, None)


def test_a_tokenizer_without_a_description_is_carried_along(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"word_tokenizer_type": "mecab"}')
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    found = read_tokenizer(str(tmp_path), {})
    assert found.tokenizer is None and set(found.carried) == {"tokenizer_config.json", "vocab.txt"}
    assert "mecab" in found.notes[0]


def test_bpe_whose_pieces_all_have_ids_is_written_exactly(tmp_path):
    codes = ["t h", "th e</w>", "a b", "ab c</w>", "l o", "lo w</w>"]
    vocab = [
        "a@@",
        "b@@",
        "c",
        "t@@",
        "h@@",
        "th@@",
        "e",
        "the",
        "ab@@",
        "abc",
        "l@@",
        "o@@",
        "lo@@",
        "w",
        "low",
        "e@@",
        "a",
        "x",
    ]
    texts = [
        "the abc low",
        "thel xab aab\tlow\u2028the",
        "öthe xx",
        "[MASK] the<EOS>",
        "THE Low",
        "lowthe theabc e a",
    ]
    for cased in (True, False):
        tokenizer = bpe(tmp_path, codes, vocab, cased)
        found, notes = tokenizer_files(tokenizer, dataclasses.replace(SPEC, eol_id=2))
        pipeline = Pipeline.from_str(found["tokenizer.json"].decode())
        assert not notes
        for text in texts:
            assert pipeline.encode(text).ids == [*tokenizer.encode(text), 2], text


def test_bpe_that_takes_pieces_apart_is_not_written(tmp_path):
    """`th` has no id, so fastBPE splits it up again where it is left over; no pipeline does."""
    tokenizer = bpe(tmp_path, ["t h", "th e</w>"], ["t@@", "h@@", "e", "the", "h", "t"])
    assert bpe_pipeline(tokenizer) is None
    found, notes = tokenizer_files(tokenizer, SPEC)
    assert set(found) == {"tokenizer_config.json"} and "no tokenizer.json" in notes[0]


def test_the_final_sigma_of_uncased_bpe_is_noted(tmp_path):
    codes, vocab = (
        ["\u03bf \u03c3</w>"],
        ["\u03bf@@", "\u03bf", "\u03c3@@", "\u03c3", "\u03bf\u03c3"],
    )
    for cased, count in ((False, 1), (True, 0)):
        found, notes = tokenizer_files(bpe(tmp_path, codes, vocab, cased), SPEC)
        assert sum("capital sigma" in note for note in notes) == count and "tokenizer.json" in found
    greekless = bpe(tmp_path, ["a b</w>"], ["a@@", "a", "b@@", "b", "ab"], False)
    assert tokenizer_files(greekless, SPEC)[1] == []
