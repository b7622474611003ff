"""Greedy and beam search against `generate` of `transformers`: random GPT-2, T5 and BART."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from tests import hf
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.load import load
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
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0 if pad is None else pad,
            # Padding is never written here; the causal model has none.
            suppress_tokens=None if pad is None else [pad],
            **({} if end is None else {"eos_token_id": end}),
            **how,
        )[0].tolist()
        new = out[1:] if theirs.config.is_encoder_decoder else out[len(prompt) :]
        found.append(new[: new.index(end) + 1] if end in new else new)
    return found


def ours(saved, prompts, how):
    generator = Generator(saved.model(), saved.spec, Words(), how)
    # Compiling takes longer than so small a model generates.
    generator._run = tf.function(generator._generate, autograph=False)
    return [result.ids for result in generator([Words().decode(p) for p in prompts], NEW)]


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


def test_settings_that_contradict_each_other():
    assert decoding(beam=2, rule="transformers").length_penalty == 1.0
    assert decoding(beam=2).length_penalty == 0.6
    with pytest.raises(UsageError, match="early_stopping"):
        decoding(beam=2, early_stopping="never")
    with pytest.raises(UsageError, match="length_penalty"):
        decoding(beam=2, length_penalty=-1.0)
