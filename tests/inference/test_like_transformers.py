"""Greedy and beam search against `generate` of `transformers`: GPT-2, T5 and BART of random values."""

from __future__ import annotations

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

    torch.manual_seed(1)
    config = getattr(transformers, name.split("For")[0].removesuffix("LMHeadModel") + "Config")
    theirs = getattr(transformers, name)(config(vocab_size=40, **FAMILIES[name]))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    theirs.eval().save_pretrained(directory)
    return theirs, load(str(directory))


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    return models(request.param, tmp_path_factory.mktemp("theirs"))


def generated(theirs, saved, prompts, **how):
    """New tokens of each prompt by `transformers`, up to the end."""
    import torch

    found = []
    pad = theirs.config.pad_token_id
    for prompt in prompts:
        ids = prompt
        if saved.spec.kind == "seq2seq":
            spec = saved.spec
            frame = [spec.prefix_id], [spec.suffix_id]
            ids = [i for i in (*frame[0], *prompt, *frame[1]) if i is not None]
        out = theirs.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones((1, len(ids)), dtype=torch.long),
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0 if pad is None else pad,
            # Padding is never written here; the causal model has none.
            suppress_tokens=None if pad is None else [pad],
            **how,
        )[0].tolist()
        new = out[1:] if saved.spec.kind == "seq2seq" else out[len(ids) :]
        found.append(new[: new.index(END) + 1] if END in new else new)
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
    theirs, saved = pair
    expected = generated(theirs, saved, prompts())
    assert ours(saved, prompts(), Sampling(temperature=0.0)) == expected


@pytest.mark.parametrize("search", SEARCHES, ids=lambda s: f"{s.beam}-{s.length_penalty}")
def test_beam_search(pair, search):
    theirs, saved = pair
    stopping = {"false": False, "true": True, "never": "never"}[search.early_stopping]
    expected = generated(
        theirs,
        saved,
        prompts(),
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
