"""Greedy and beam search against `generate` of `transformers`: random GPT-2, T5 and BART."""

from __future__ import annotations

import dataclasses
import functools
import json

import numpy as np
import pytest
import tensorflow as tf

from tests import hf
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.load import load
from tpu_tlm.formats.save import save
from tpu_tlm.inference.constraints import Constraints
from tpu_tlm.inference.generate import Generator
from tpu_tlm.inference.sampling import BeamSearch, Sampling, decoding

pytestmark = hf.needs_torch
END, NEW = 5, 12
FAMILIES = {
    "GPT2LMHeadModel": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    | {"eos_token_id": END, "bos_token_id": END},
    "T5ForConditionalGeneration": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1}
    | {"num_heads": 2, "decoder_start_token_id": 0, "eos_token_id": END},
    "BartForConditionalGeneration": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    | {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32}
    | {"decoder_ffn_dim": 32, "max_position_embeddings": 32, "decoder_start_token_id": END}
    | {"eos_token_id": END, "bos_token_id": 6, "pad_token_id": 1, "forced_eos_token_id": None},
}
SEARCHES = [
    BeamSearch(width, penalty, "transformers", stopping)
    for width, penalty, stopping in [
        (4, 1.0, "false"),
        (3, 2.0, "never"),
        (2, -1.0, "true"),
    ]
]


class Words:
    """A tokenizer of numbers."""

    tokens = tuple(str(i) for i in range(40))

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(str(i) for i in ids)

    def id_of(self, token):
        return None


@functools.cache
def models(name, directory):
    """Both models, and prompts as ids: of one length for a causal model, which has no padding."""
    import torch
    import transformers

    config = getattr(transformers, name.split("For")[0].removesuffix("LMHeadModel") + "Config")
    for seed in range(50):
        torch.manual_seed(seed)
        theirs = getattr(transformers, name)(config(vocab_size=40, **FAMILIES[name])).eval()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter += 0.5 * torch.randn_like(parameter)
        # A token that greedy search comes to becomes the end, so that lengths differ.
        starts = generated(theirs, prompts(), None)
        ends = [t for start in starts for t in start if 3 <= start.index(t) <= 8]
        firsts = [{s.index(t) if t in s else NEW for s in starts} for t in ends]
        if any(len(places) > 1 for places in firsts):
            end = next(t for t, places in zip(ends, firsts, strict=True) if len(places) > 1)
            break
    theirs.config.eos_token_id = theirs.generation_config.eos_token_id = end
    theirs.save_pretrained(directory)
    saved = load(str(directory))
    spec = dataclasses.replace(saved.spec, prefix_id=None, suffix_id=None)
    if spec.kind == "clm":
        assert spec.eol_id == end
    return theirs, saved.replaced(spec=spec), end


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    return models(request.param, tmp_path_factory.mktemp("theirs"))


def generated(theirs, prompts, end, **how):
    """New tokens of each prompt by `transformers`, up to the end."""
    import torch

    found = []
    pad = theirs.config.pad_token_id
    for prompt in prompts:
        out = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
            do_sample=False,
            pad_token_id=0 if pad is None else pad,
            # Padding is never written here; the causal model has none.
            suppress_tokens=None if pad is None else [pad],
            **({} if end is None else {"eos_token_id": end}),
            **{"max_new_tokens": NEW, **how},
        )[0].tolist()
        new = out[1:] if theirs.config.is_encoder_decoder else out[len(prompt) :]
        found.append(new[: new.index(end) + 1] if end in new else new)
    return found


def ours(saved, prompts, how, new=NEW):
    own = Constraints.of(saved.generation)
    generator = Generator(saved.model(), saved.spec, Words(), how, own)
    # Compiling takes longer than so small a model generates.
    generator._run = tf.function(generator._generate, autograph=False)
    return [result.ids for result in generator([Words().decode(p) for p in prompts], new)]


def prompts():
    rng = np.random.default_rng(4)
    return [rng.integers(7, 40, n).tolist() for n in (3, 6, 4)]


def test_greedy(pair):
    theirs, saved, end = pair
    expected = generated(theirs, prompts(), end)
    assert len({len(ids) for ids in expected}) > 1
    assert ours(saved, prompts(), Sampling(temperature=0.0)) == expected


@pytest.mark.parametrize("search", SEARCHES, ids=lambda s: f"{s.beam}-{s.length_penalty}")
def test_beam_search(pair, search):
    theirs, saved, end = pair
    stopping = {"false": False, "true": True, "never": "never"}[search.early_stopping]
    expected = generated(
        theirs,
        prompts(),
        end,
        num_beams=search.beam,
        length_penalty=search.length_penalty,
        early_stopping=stopping,
    )
    assert ours(saved, prompts(), search) == expected


SETTINGS = {"no_repeat_ngram_size": 2, "forced_eos_token_id": None}


@pytest.mark.parametrize("beside", [True, False], ids=["generation_config.json", "config.json"])
def test_settings_of_the_model(pair, beside, tmp_path):
    """Forced tokens and runs that do not repeat: read, applied, and written as they were read."""
    import copy

    theirs, saved, end = pair
    reads = theirs.config.is_encoder_decoder
    settings = {**SETTINGS, "forced_eos_token_id": end}
    # The first token of a target.
    settings |= {"forced_bos_token_id": 9, "num_beams": 3} if reads else {}
    theirs.save_pretrained(tmp_path / "theirs")
    name = "generation_config.json" if beside else "config.json"
    (tmp_path / "theirs" / "generation_config.json").unlink()
    given = json.loads((tmp_path / "theirs" / "config.json").read_text())
    written = {**given, **settings} if not beside else settings
    (tmp_path / "theirs" / name).write_text(json.dumps(written))
    read = load(str(tmp_path / "theirs"))
    assert any("num_beams 3" in note for note in read.notes) == reads
    # Through our own format too.
    save(read, str(tmp_path / "model.npz"))
    save(load(str(tmp_path / "model.npz")), str(tmp_path / "ours"), "hf")
    back = json.loads((tmp_path / "ours" / name).read_text())
    assert {key: back[key] for key in settings} == settings
    if beside:
        assert back == settings

    forced = (9,) if reads else ()
    assert Constraints.of(read.generation) == Constraints(forced, (end,), 2)
    if not beside:
        return
    saved = read.replaced(spec=saved.spec)
    model = copy.deepcopy(theirs)
    model.generation_config.update(**{**settings, "num_beams": 1})
    free = generated(theirs, prompts(), end, max_new_tokens=6)
    expected = generated(model, prompts(), end, max_new_tokens=6)
    assert expected != free and all(ids[-1] == end for ids in expected)
    assert ours(saved, prompts(), Sampling(temperature=0.0), 6) == expected
    search = SEARCHES[0]
    beams = generated(model, prompts(), end, num_beams=search.beam, max_new_tokens=6)
    assert ours(saved, prompts(), search, 6) == beams
    # By the other rule too no pair of tokens comes twice.
    for ids in ours(saved, prompts(), BeamSearch(3), 6):
        runs = list(zip(ids, ids[1:], strict=False))
        assert len(set(runs)) == len(runs) and ids[-1] == end


@pytest.mark.parametrize("value", [4000, "x", True, -1])
def test_a_forced_token_that_is_none_is_refused(pair, value, tmp_path):
    pair[0].save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"forced_eos_token_id": value}))
    with pytest.raises(UsageError, match="generation_config.json: forced_eos_token_id"):
        load(str(tmp_path))


def test_settings_that_contradict_each_other():
    assert decoding(beam=2, rule="transformers").length_penalty == 1.0
    assert decoding(beam=2).length_penalty == 0.6
    with pytest.raises(UsageError, match="early_stopping"):
        decoding(beam=2, early_stopping="never")
    with pytest.raises(UsageError, match="length_penalty"):
        decoding(beam=2, length_penalty=-1.0)
