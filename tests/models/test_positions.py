"""Position encodings: the registry, its facts, the option and its older spellings."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.models.contract import small
from tpu_tlm.config import ModelConfig, cli, position_encodings
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.mead.mapping import pairs_of
from tpu_tlm.models.initializers import initial_value
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.positions.base import AbsoluteEncoding, RelativeEncoding
from tpu_tlm.models.positions.registry import encoding, find_table, idle_options, max_length
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec

NAMES = list(position_encodings.POSITION_ENCODINGS)


def parse(*flags: str) -> ModelConfig:
    return cli.parse("tpu_tlm.train", "", [ModelConfig], flags)[0]


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_says_what_the_encoding_acts_on(name):
    entry = position_encodings.POSITION_ENCODINGS[name]
    base = AbsoluteEncoding if entry.acts == "absolute" else RelativeEncoding
    assert isinstance(encoding(name), base)
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    assert set(encoding(name).options) <= fields
    assert f"{name} ({entry.help})" in position_encodings.describe()


@pytest.mark.parametrize("kind", ["mlm", "seq2seq"])
@pytest.mark.parametrize("name", NAMES)
def test_the_tables_are_the_variables_that_the_encoding_adds(name, kind):
    def paths(names):
        config = small(position_encoding=names, rpr_k=[3], num_decoder_layers=1)
        spec = ModelSpec(config, 20, 8, kind=kind)
        return set(named_variables(build_model(spec))), {
            path for pair in pairs_of(spec) for path in pair.paths
        }

    variables, stored = paths([name])
    assert variables == stored, "every table has a place in an NPZ"
    added = variables - paths([])[0]
    known = {table.name for table in encoding(name).all_tables}
    biased = {"bias"} if name == "learned-with-bias" else set()
    assert {path.rsplit("/", 1)[1] for path in added} == known | biased


def test_names_of_tables_are_unique():
    tables = [
        table
        for name in NAMES
        if name != "learned-with-bias"  # the same table as learned
        for table in encoding(name).all_tables
    ]
    assert len({table.name for table in tables}) == len(tables)
    assert find_table("rpr_key").mead_key == "rpr_key" and find_table("kernel") is None


@pytest.mark.parametrize("weight_init", ["bert", "mead"])
def test_initial_values_of_tables(weight_init):
    config = small(weight_init=weight_init, weight_std=0.02)
    limits = {"positions": 0.1, "positions_long": 0.1, "positions_short": 0.1}
    limits |= {"rpr_key": 0.05, "rpr_value": 0.05, "rel_embedding": (6 / 400) ** 0.5}
    for name, limit in limits.items():
        value = np.abs(initial_value(f"x/{name}", (200, 200), config, 0)).max()
        largest = 0.04 if weight_init == "bert" else limit
        assert 0.95 * largest < value <= largest, name
    assert not initial_value("x/rel_bias", (200, 200), config, 0).any()


def test_longest_inputs():
    def limit(*names, **options):
        config = small(position_encoding=list(names), rpr_k=[2], **options)
        return max_length(ModelSpec(config, 20, 8, seq_length_y=12))

    assert limit("learned") == limit("learned-with-bias", "rotary") == 12
    assert limit("learned", max_positions=30) == 30
    assert all(limit(n) is None for n in NAMES if not n.startswith("learned"))
    assert limit("sinusoidal", mlp=True) == 8


def test_an_input_longer_than_the_learned_positions_is_refused():
    model = build_model(ModelSpec(small(position_encoding=["learned"]), 20, 8))
    with pytest.raises(ValueError, match="9 tokens.*8 learned.*--max_positions"):
        model(tf.ones((1, 9), tf.int32))


def test_options_that_no_encoding_reads_are_idle():
    assert idle_options(small(position_encoding=["learned", "rotary"])) == {
        "rpr_k",
        "rpr_value_on",
        "share_positions",
    }
    assert idle_options(parse()) == {
        "max_positions",
        "rotary_base",
        "rotary_base_local",
        "share_positions",
    }


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ((), ["shaw"]),
        (("--rpr_k", "0"), []),
        (("--mlp",), []),
        (("--position_encoding", "none"), []),
        (("--position_encoding", "rotary", "learned"), ["learned", "rotary"]),
        (("--embed_type", "learned-positional"), ["learned", "shaw"]),
        (("--embed_type", "learned-positional-w-bias", "--rpr_k", "0"), ["learned-with-bias"]),
        (("--embed_type", "positional", "--ra_type", "t5"), ["sinusoidal", "t5"]),
        (("--embed_type", "positional-t2t", "--ra_type", "alibi"), ["sinusoidal-t2t", "alibi"]),
        (("--embed_type", "modular", "--ra_type", "convert"), ["modular", "convert"]),
        (("--embed_type", "default", "--ra_type", "rotary"), ["rotary"]),
        (("--ra_type", "shaw", "--rpr_k", "4"), ["shaw"]),
    ],
)
def test_the_option_and_its_older_spellings(flags, names):
    assert parse(*flags).position_encoding == names
    shown = cli.dump(parse(*flags))
    assert "embed_type" not in shown and f"position_encoding: {json.dumps(names)}" in shown


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--position_encoding", "learned", "modular"), ["learned", "modular", "absolute"]),
        (("--position_encoding", "alibi", "t5"), ["alibi", "t5", "relative"]),
        (("--position_encoding", "rotray"), ["--position_encoding", "rotray", "rotary"]),
        (("--embed_type", "rotary"), ["embed_type", "learned-positional"]),
        (("--ra_type", "learned"), ["ra_type", "alibi"]),
        (("--position_encoding", "t5", "--ra_type", "t5"), ["position_encoding", "twice"]),
    ],
)
def test_what_the_option_refuses(flags, words):
    with pytest.raises(UsageError) as caught:
        parse(*flags)
    assert all(word in str(caught.value) for word in words)


def test_an_older_flag_replaces_only_its_kind_in_a_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("embed_type: learned-positional\nra_type: alibi\n")
    assert parse("--config", str(path)).position_encoding == ["learned", "alibi"]
    assert parse("--config", str(path), "--ra_type", "t5").position_encoding == ["learned", "t5"]
    path.write_text(cli.dump(parse("--config", str(path))))
    changed = parse("--config", str(path), "--embed_type", "positional")
    assert changed.position_encoding == ["sinusoidal", "alibi"]
    assert parse("--config", str(path), "--position_encoding", "t5").position_encoding == ["t5"]


def test_a_spec_of_the_first_edition_is_read():
    values = json.loads(ModelSpec(small(), 20, 8).to_json())
    del values["config"]["position_encoding"]
    values["config"] |= {"embed_type": "positional", "ra_type": "shaw", "rpr_k": [4]}
    values["nctx"] = values.pop("seq_length")
    spec = ModelSpec.from_json(json.dumps(values), "test")
    assert spec.config.position_encoding == ["sinusoidal", "shaw"] and spec.seq_length == 8


def test_a_gated_mlp_refuses_encodings_of_attention():
    with pytest.raises(UsageError, match="alibi.*--mlp"):
        build_model(ModelSpec(small(mlp=True, position_encoding=["alibi"]), 20, 8))
