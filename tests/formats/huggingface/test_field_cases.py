"""Situations that people reported: tokenizers and vocabularies of HuggingFace models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from tests import hf
from tpu_tlm.config import ModelConfig, TokenizerConfig
from tpu_tlm.data.tokenizers.factory import make_tokenizer
from tpu_tlm.formats.load import load
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.formats.save import check_same, save
from tpu_tlm.inference.fill_mask import FillMask
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec

pytestmark = hf.needs_torch
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
    *(".", ",", "-", "the", "of", "and", "plasma", "heat", "to", "##kam", "##ak", "is", "in"),
]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 24,
}


def bert(rows, **config):
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=rows, **SIZES, **config)
    return transformers.BertForMaskedLM(config).eval()


def tokenizer_of(directory, words=WORDS, **settings):
    import transformers

    directory.mkdir(exist_ok=True)
    path = directory / "words.txt"
    path.write_text("".join(f"{word}\n" for word in words))
    made = transformers.BertTokenizer(vocab=str(path), **settings)
    path.unlink()
    return made


def check(directory, model, tokenizer, text, tmp_path):
    """Ids, logits and guesses are those of `transformers`, before and after an export."""
    import torch
    from transformers import AutoTokenizer

    ids = tokenizer(text)["input_ids"]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    saved = load(str(directory))
    ours = saved.tokenizer()
    frame = (saved.spec.prefix_id, saved.spec.suffix_id)
    assert [frame[0], *ours.encode(text), frame[1]] == ids
    found = saved.model()(tf.constant([ids]))[0, :, : saved.spec.vocab_size]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    at = ids.index(tokenizer.mask_token_id)
    (guesses,) = FillMask(saved.model(), saved.spec, ours)(text, 3)
    chance = np.exp(expected[at]) / np.exp(expected[at]).sum()
    best = np.argsort(-chance[: len(tokenizer)])[:3]
    assert [g.id for g in guesses] == best.tolist()
    np.testing.assert_allclose([g.probability for g in guesses], chance[best], atol=1e-5)
    save(saved, str(tmp_path / "out"), "hf")
    assert AutoTokenizer.from_pretrained(str(tmp_path / "out"))(text)["input_ids"] == ids
    assert load(str(tmp_path / "out")).tokenizer().encode(text) == ours.encode(text)


def test_added_tokens(tmp_path):
    tokenizer = tokenizer_of(tmp_path / "model")
    tokenizer.add_tokens(["tokamak", "covid-19"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["[E1]"]})
    model = bert(len(tokenizer))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    text = "the tokamaks of covid-19 [E1] [MASK] ."
    assert "tokamak" in tokenizer.tokenize(text) and "[E1]" in tokenizer.tokenize(text)
    check(tmp_path / "model", model, tokenizer, text, tmp_path)


def test_special_tokens_that_only_the_settings_list(tmp_path):
    from transformers import AutoTokenizer

    directory = tmp_path / "model"
    tokenizer = tokenizer_of(directory)
    tokenizer.save_pretrained(directory)
    path = directory / "tokenizer_config.json"
    listed = {"additional_special_tokens": ["[E1]"]}
    path.write_text(json.dumps({**json.loads(path.read_text()), **listed}))
    tokenizer = AutoTokenizer.from_pretrained(str(directory))
    assert "[E1]" in tokenizer.tokenize("heat [E1]")
    model = bert(len(tokenizer))
    model.save_pretrained(directory)
    check(directory, model, tokenizer, "the heat [E1] of [MASK] .", tmp_path)


def test_more_rows_than_tokens(tmp_path):
    tokenizer = tokenizer_of(tmp_path / "model")
    model = bert(len(tokenizer))
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    model.eval().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert model.config.vocab_size > len(tokenizer)
    check(tmp_path / "model", model, tokenizer, "the heat of [MASK] .", tmp_path)


@pytest.mark.parametrize("left", ["tokenizer.json", "vocab.txt"])
def test_case_in_the_settings(left, tmp_path):
    """`do_lower_case` of tokenizer_config.json overrules the normalizer of tokenizer.json."""
    from transformers import AutoTokenizer

    directory = tmp_path / "model"
    tokenizer = tokenizer_of(directory, [*WORDS, "The", "Heat"])
    tokenizer.save_pretrained(directory)
    model = bert(len(tokenizer))
    model.save_pretrained(directory)
    if left == "vocab.txt":
        (directory / "tokenizer.json").unlink()
        (directory / left).write_text("".join(f"{word}\n" for word in [*WORDS, "The", "Heat"]))
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_lower_case": False}))
    tokenizer = AutoTokenizer.from_pretrained(str(directory))
    assert tokenizer.tokenize("The Heat") == ["The", "Heat"]
    check(directory, model, tokenizer, "The Heat of [MASK] heat", tmp_path)


def test_accents_that_are_kept(tmp_path):
    tokenizer = tokenizer_of(tmp_path / "model", [*WORDS, "café", "cafe"], strip_accents=False)
    tokenizer.save_pretrained(tmp_path / "model")
    model = bert(len(tokenizer))
    model.save_pretrained(tmp_path / "model")
    check(tmp_path / "model", model, tokenizer, "Café the [MASK] cafe", tmp_path)


def test_padding_in_another_line(tmp_path):
    """As bert-base-german-cased: the first line is an unused token."""
    from transformers import AutoTokenizer

    directory = tmp_path / "model"
    words = ["[unused3001]", *WORDS]
    model = bert(len(words), pad_token_id=1)
    model.save_pretrained(directory)
    (directory / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    (directory / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    tokenizer = AutoTokenizer.from_pretrained(str(directory))
    check(directory, model, tokenizer, "the heat of [MASK] .", tmp_path)
    saved = load(str(directory))
    assert saved.spec.pad_id == saved.tokenizer().pad_id == 1


def test_words_split_by_a_dictionary_are_carried_unread(tmp_path):
    directory = tmp_path / "model"
    words = [*WORDS[:5], "東京", "大学", "で"]
    bert(len(words)).save_pretrained(directory)
    (directory / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    config = json.loads((directory / "config.json").read_text())
    config["tokenizer_class"] = "BertJapaneseTokenizer"
    (directory / "config.json").write_text(json.dumps(config))
    settings = '{"do_lower_case": false, "word_tokenizer_type": "mecab"}'
    (directory / "tokenizer_config.json").write_text(settings)
    saved = load(str(directory))
    assert saved.own_tokenizer is None and "BertJapaneseTokenizer" in saved.notes[-1]
    with pytest.raises(Exception, match="BertJapaneseTokenizer.*--tokenizer"):
        saved.tokenizer()
    save(saved, str(tmp_path / "out"), "hf")
    assert (tmp_path / "out" / "tokenizer_config.json").read_text() == settings
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_an_untied_decoder_with_a_bias(tmp_path):
    import torch

    tokenizer = tokenizer_of(tmp_path / "model")
    model = bert(len(tokenizer), tie_word_embeddings=False)
    with torch.no_grad():
        model.cls.predictions.decoder.bias.normal_(0, 1)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    check(tmp_path / "model", model, tokenizer, "the heat of [MASK] .", tmp_path)
    again = hf.load("BertForMaskedLM", tmp_path / "out")
    x = np.array([[2, 7, 4, 3]])
    expected = hf.outputs(model, x, np.ones_like(x))["logits"]
    np.testing.assert_allclose(hf.outputs(again, x, x * 0 + 1)["logits"], expected, atol=1e-5)


def trained(kind, tokenizer, **options):
    """A model of ours with random values, as training leaves it: no padding row is zero."""
    config = ModelConfig(
        d_model=16,
        d_ff=16,
        num_heads=2,
        num_layers=1,
        position_encoding=["learned"],
        layer_norm_eps=1e-5,
        **options,
    )
    frame = {"prefix_id": tokenizer.cls_id, "suffix_id": tokenizer.sep_id}
    if kind == "clm":
        frame = {"eol_id": tokenizer.sep_id}
    spec = ModelSpec(config, len(tokenizer.tokens), 16, kind=kind, **frame)
    values = {p: v.numpy() for p, v in named_variables(build_model(spec, seed=1)).items()}
    return PretrainedModel(
        values, spec, "here", fingerprint=tokenizer.fingerprint(), own_tokenizer=tokenizer
    )


def wordpiece(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{word}\n" for word in WORDS))
    return make_tokenizer(TokenizerConfig(subword_type="wordpiece", vocab=str(path), cased=False))


@pytest.mark.parametrize("kind", ["mlm", "clm"])
def test_untied_models_of_ours_are_exported(kind, tmp_path):
    """The columns of the head that only pad the vocabulary are in no file."""
    head = {"mlm_head": "bert", "output_bias": True} if kind == "mlm" else {}
    bert_like = {
        "type_vocab_size": 2,
        "embeddings_reduction": "sum-layer-norm",
        "transformer_type": "post-layer-norm",
        "activation": "gelu-exact",
    }
    options = {**head, **bert_like} if kind == "mlm" else {}
    saved = trained(kind, wordpiece(tmp_path), tie_weights=False, **options)
    assert saved.values["head/kernel"][:, len(WORDS) :].any()
    for target, to in (("x.npz", None), ("hf", "hf")):
        save(saved, str(tmp_path / target), to)
        assert check_same(saved, load(str(tmp_path / target))) == len(saved.values)
    theirs = hf.load("BertForMaskedLM" if kind == "mlm" else "GPT2LMHeadModel", tmp_path / "hf")
    x = np.array([[2, 7, 8, 3]])
    expected = saved.model()(tf.constant(x, tf.int32))[..., : len(WORDS)]
    found = hf.outputs(theirs, x, np.ones_like(x))["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_prompt_of_a_causal_model_has_no_end_token(tmp_path):
    from transformers import AutoTokenizer

    save(trained("clm", wordpiece(tmp_path)), str(tmp_path / "hf"), "hf")
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "hf"))
    ids = tokenizer("the heat of")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["the", "heat", "of"]
    assert tokenizer.eos_token == "[SEP]"


def test_a_vocabulary_without_a_pipeline_fails_in_transformers(tmp_path):
    """`transformers` would make an empty tokenizer of such a directory, and say nothing."""
    from transformers import AutoTokenizer

    (tmp_path / "codes").write_text("t h 1\nth e</w> 1\n")
    (tmp_path / "vocab").write_text("t@@ 1\nh@@ 1\ne 1\nthe 1\nh 1\nt 1\n")
    tokenizer = make_tokenizer(
        TokenizerConfig(codes=str(tmp_path / "codes"), vocab=str(tmp_path / "vocab"))
    )
    config = ModelConfig(
        d_model=16, d_ff=16, num_heads=2, num_layers=1, position_encoding=["learned"]
    )
    spec = ModelSpec(config, len(tokenizer.tokens), 16, kind="clm", eol_id=tokenizer.sep_id)
    values = {p: v.numpy() for p, v in named_variables(build_model(spec, seed=1)).items()}
    saved = PretrainedModel(values, spec, "here", own_tokenizer=tokenizer)
    _, notes = save(saved, str(tmp_path / "hf"), "hf")
    assert any("no tokenizer.json" in note for note in notes)
    with pytest.raises(ValueError, match="tokenizer"):
        AutoTokenizer.from_pretrained(str(tmp_path / "hf"))
