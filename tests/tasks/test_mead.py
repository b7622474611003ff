"""A MEAD user's YAML, and MEAD's own numbers for its pooled embeddings."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import yaml

from tests.paths import DATA_FILES
from tests.tasks.toy_tasks import reviews, toy_model
from tpu_tlm.data.tokenizers.given import given_tokenizer
from tpu_tlm.errors import UsageError, run_command
from tpu_tlm.finetune import main
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.tasks.head import HeadSpec, pool
from tpu_tlm.tasks.mead_config import is_mead_file, read_mead
from tpu_tlm.tasks.model import build_task_model, task_spec
from tpu_tlm.tasks.options import FinetuneOptions, check
from tpu_tlm.training.finetuning.source import Source, load_source

GOLDEN = Path(os.environ.get("GOLDEN_MEAD", DATA_FILES / "golden_mead"))
PAGE = """
task: classify
basedir: {run}
dataset: SST2
features:
- embeddings:
    word_embed_type: learned-positional-w-bias
    label: bert-base-uncased-npz
    type: tlm-words-embed-pooled
    reduction: sum-layer-norm
    layer_norms_after: True
    finetune: True
    dropout: 0.1
    mlm: True
  name: bert
  vectorizer:
    label: bert-base-uncased
model:
  model_type: fine-tune
train:
  epochs: 2
  batchsz: 16
  eta: 1.0e-3
  optim: adamw
  weight_decay: 1.0e-8
  early_stopping_metric: acc
  patience: 5
  verbose: True
"""


# What the page's block says of a model.
BERT = {
    "transformer_type": "post-layer-norm",
    "embeddings_reduction": "sum-layer-norm",
    "layer_norm_eps": 1e-12,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mead")
    toy_model(directory, **BERT)
    reviews(directory / "train.csv", 64)
    reviews(directory / "valid.csv", 32, seed=1)
    (directory / "mead.yml").write_text(PAGE.format(run=directory / "run"))
    index = [
        {"label": "bert-base-uncased-npz", "file": "model.npz", "dsz": 32},
        {"label": "bert-base-uncased", "vocab_file": "vocab.txt", "type": "wordpiece1d"},
    ]
    (directory / "index.json").write_text(json.dumps(index))
    return directory


def page() -> Any:
    return yaml.safe_load(PAGE.format(run="run"))


def embeddings(config: Any) -> dict[str, Any]:
    return config["features"][0]["embeddings"]  # type: ignore[no-any-return]


def read(place: Path, config: Any, index: str | None = "index.json") -> Any:
    """The options of a configuration, written into the place of its files."""
    path = place / "changed.yml"
    path.write_text(yaml.safe_dump(config))
    return read_mead(str(path), str(place / index) if index else None)


def notes_of(place: Path, change: Callable[[Any], Any], task: str = "classify") -> tuple[Any, str]:
    """(options, notes) of the page's block after a change."""
    config = page() | {"task": task}
    change(config)
    found = read(place, config)
    return found.values, "\n".join(found.notes)


def test_the_page_s_block_means_the_same_here(place: Path) -> None:
    found = read_mead(str(place / "mead.yml"), str(place / "index.json"))
    values = found.values
    assert values["model"] == str(place / "model.npz") and values["task"] == "classify"
    assert values["tokenizer"] == str(place / "vocab.txt")
    expected = {"pooling": "cls", "finetune": True, "dropout": 0.1, "epochs": 2, "lr": 1e-3}
    expected |= {"batch_size": 16, "optimizer": "adamw", "metric": "accuracy", "patience": 5}
    assert expected.items() <= values.items()
    described = json.loads(values["mead_config"])
    # The sizes are those of the arrays; that of the index is checked against them.
    assert described["kind"] == "embed" and described["config"].pop("dsz") == 32
    assert described["config"] == {
        "word_embed_type": "learned-positional-w-bias",
        "reduction": "sum-layer-norm",
        "layer_norms_after": True,
        "mlm": True,
    }
    notes = "\n".join(found.notes)
    assert "dataset" in notes and "train.verbose" in notes


def test_the_page_s_block_trains_by_one_command(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--config", str(place / "mead.yml"), "--embeddings_index", str(place / "index.json")]
    argv += ["--train", str(place / "train.csv"), "--valid", str(place / "valid.csv")]
    argv += ["--buckets", "1"]
    assert main([*argv, "--epochs", "1", "--xla", "false", "--distribute", "none"]) == 0
    assert "1 epochs of 64 texts" in capsys.readouterr().out  # the flag wins
    assert (place / "run" / "report.json").exists()


def test_labels_and_models_that_cannot_be_resolved(place: Path, tmp_path: Path) -> None:
    path = str(place / "mead.yml")
    with pytest.raises(UsageError, match="bert-base-uncased-npz.*--embeddings_index"):
        read_mead(path, None)
    text = PAGE.format(run="r").replace("fine-tune", "lstm")
    (tmp_path / "m.yml").write_text(text)
    with pytest.raises(UsageError, match="lstm"):
        read_mead(str(tmp_path / "m.yml"), str(place / "index.json"))
    (tmp_path / "ours.yml").write_text("task: classify\nmodel: path\n")
    assert not is_mead_file(str(tmp_path / "ours.yml")) and is_mead_file(path)
    index = [{"label": "bert-base-uncased-npz", "file": "https://host.example/x.npz?dl=1"}]
    (place / "far.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match="x.npz.*not downloaded"):
        read(place, page(), "far.json")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ([1], "entry 1 has no label, or no file"),
        ({"label": 3, "file": "x"}, "entry 1 has no label, or no file"),
        ({"label": "bert-base-uncased-npz"}, "entry 1 has no label, or no file"),
        ({"label": "bert-base-uncased-npz", "file": [1]}, "entry 1: file must be text"),
        ({"label": "bert-base-uncased-npz", "file": "x", "dsz": "a"}, "dsz must be a whole number"),
        ({"label": "bert-base-uncased-npz", "vocab_file": "x"}, "has no file in the index"),
    ],
)
def test_an_index_that_cannot_be_used(place: Path, entry: Any, words: str) -> None:
    (place / "bad.json").write_text(json.dumps([entry]))
    with pytest.raises(UsageError, match=words):
        read(place, page(), "bad.json")


def test_a_tagger_is_an_output_layer_on_every_word(place: Path) -> None:
    def tagger(config: Any) -> None:
        config["model"] = {"model_type": "pass", "crf": 0, "constrain_decode": False}
        embeddings(config).update(type="tlm-words-embed", mlm=False)
        config["train"] |= {"span_type": "iobes", "early_stopping_metric": "f1"}

    values, notes = notes_of(place, tagger, "tagger")
    assert values["task"] == "tag" and not {"pooling", "metric", "hidden"} & values.keys()
    assert json.loads(values["mead_config"])["config"]["mlm"] is False
    assert "crf" not in notes and "span_type" in notes and "read off the tags" in notes
    values, notes = notes_of(place, lambda c: c["model"].update(model_type="pass", crf=1), "tagger")
    assert "crf (1) is not applied" in notes
    with pytest.raises(UsageError, match="model.model_type: 'pass'"):
        notes_of(place, lambda c: c["model"].update(model_type="pass"))


@pytest.mark.parametrize("task", ["classify", "tagger"])
@pytest.mark.parametrize("kind", ["default", "transformer"])
def test_models_that_lose_their_layers_say_which(place: Path, task: str, kind: str) -> None:
    values, notes = notes_of(place, lambda c: c.update(model={"model_type": kind, "hsz": 64}), task)
    lost = {"classify": "convolutions", "tagger": "LSTM"}[task] if kind == "default" else "Transf"
    assert f'model.model_type ("{kind}") is a linear layer here' in notes and lost in notes
    assert "hidden" not in values and "model.hsz (64) is not applied" in notes


@pytest.mark.parametrize(
    ("pooling", "ours"),
    [
        ("mean", "mean"),
        ("sqrt_length", "sqrt"),
        ("2ha", "2ha"),
        ("2ha_max", "2ha"),
        ("sha", "attention"),
        ("sha_mean", "attention"),
    ],
)
def test_mead_s_names_of_pooling(place: Path, pooling: str, ours: str) -> None:
    values, notes = notes_of(place, lambda c: embeddings(c).update(pooling=pooling))
    assert values["pooling"] == ours and ("embeddings.pooling" in notes) == (pooling != "mean")


def test_an_elmo_is_read_by_mead_s_names(place: Path) -> None:
    weights = place / "elmo_weights.hdf5"
    weights.write_bytes(b"")

    def elmo(config: Any, **more: Any) -> None:
        config["features"][0] = {
            "embeddings": {"type": "elmo-pooled", "embed_file": str(weights), **more}
        }

    values, _ = notes_of(place, elmo)
    assert values["model"] == str(weights) and values["pooling"] == "mean"
    assert "mead_config" not in values
    with pytest.raises(UsageError, match="pooling: 'conv': known are mean, max"):
        notes_of(place, lambda c: elmo(c, pooling="conv"))


def test_what_acts_is_applied_and_what_does_not_is_said(place: Path) -> None:
    def change(config: Any) -> None:
        embeddings(config).update(ffn_dropout=0.3, offset=2, mlp=True, nctx=64, layers=2)
        embeddings(config).update(
            embeddings_dropout=0.2, layer_norm_eps="1e-5", vocab_file="v.json"
        )
        config["train"] |= {"warmup_steps": 100, "eta": "2e-5"}
        config["preproc"] = {"mxlen": 20}
        config["features"].append({"name": "char"})

    values, notes = notes_of(place, change)
    config = json.loads(values["mead_config"])["config"]
    given = {"ffn_dropout": 0.3, "offset": 2, "mlp": True, "nctx": 64, "layers": 2}
    assert given.items() <= config.items() and config["layer_norm_eps"] == 1e-5
    assert values["lr"] == "2e-5" and values["max_length"] == 20
    assert "embeddings_dropout (0.2) is not applied: dropout is" in notes
    assert "warmup_steps (100) is not applied: --warmup is a share" in notes
    assert "vocab_file" in notes and 'features[1] ("char") is left out' in notes

    def only(config: Any) -> None:
        embeddings(config).pop("dropout")
        embeddings(config).update(embeddings_dropout=0.2)

    assert (
        json.loads(notes_of(place, only)[0]["mead_config"])["config"]["embeddings_dropout"] == 0.2
    )


def test_fast_bpe_s_files_are_the_tokenizer(place: Path) -> None:
    index = json.loads((place / "index.json").read_text())[:1]
    index.append({"label": "bpe", "type": "bpe1d", "vocab_file": "vocab.30k", "model_file": "m"})
    (place / "bpe.json").write_text(json.dumps(index))
    config = page()
    config["features"][0]["vectorizer"] = {"label": "bpe", "emit_begin_tok": "[CLS]", "mxlen": 9}
    found = read(place, config, "bpe.json")
    assert found.values["tokenizer"] == str(place / "vocab.30k")
    assert found.values["codes"] == str(place / "m") and found.values["max_length"] == 9
    assert json.loads(found.values["mead_config"])["frame"] == {"prefix": "[CLS]"}


def test_an_npz_of_mead_s_with_fast_bpe_s_files_is_read(place: Path) -> None:
    files, directory = DATA_FILES / "tokenizers", place / "bpe"
    directory.mkdir()
    expected = given_tokenizer(str(files / "vocab"), str(files / "codes"))
    with np.load(DATA_FILES / "golden_mead" / "mlm_rpr8.npz") as saved:
        arrays = {key: saved[key] for key in saved.files}
    table = np.zeros((len(expected.tokens), 32), np.float32)
    np.savez(directory / "m.npz", **{**arrays, "TLM/Embeddings/x/weights": table})
    index = [
        {"label": "npz", "file": str(directory / "m.npz"), "dsz": 32},
        {
            "label": "bpe",
            "type": "bpe1d",
            "vocab_file": str(files / "vocab"),
            "model_file": str(files / "codes"),
        },
    ]
    (directory / "index.json").write_text(json.dumps(index))
    config = page()
    # No sizes, no heads: relative positions show them.
    config["features"][0] = {
        "embeddings": {"label": "npz", "word_embed_type": "default"},
        "vectorizer": {"label": "bpe", "emit_begin_tok": "[CLS]", "emit_end_tok": ["<EOS>"]},
    }
    (directory / "mead.yml").write_text(yaml.safe_dump(config))
    values = read_mead(str(directory / "mead.yml"), str(directory / "index.json")).values
    names = ("tokenizer", "codes", "mead_config")
    source = load_source(values["model"], **{name: values[name] for name in names})
    assert source.tokenizer.fingerprint() == expected.fingerprint()
    assert (source.spec.prefix_id, source.spec.suffix_id) == (4, 2)
    assert source.spec.config.num_heads == 4 and source.spec.config.rpr_k == [8]


def source_of(place: Path, **changes: Any) -> Source:
    """The toy model as the page's block, changed, has it read."""
    config = page()
    embeddings(config).update(changes)
    values = read(place, config).values
    return load_source(
        values["model"], tokenizer=values["tokenizer"], mead_config=values["mead_config"]
    )


def test_a_model_with_its_own_configuration_must_agree(place: Path) -> None:
    found = source_of(place, ffn_dropout=0.3)
    assert found.spec.config.ffn_pdrop == 0.3
    notes = source_of(place, mxlen=128, offset=2).notes
    assert any("offset 2: the model's own" in note for note in notes)
    (note,) = (n for n in notes if "mxlen" in n)
    assert "mxlen 128: that of the model is taken, 32" in note


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mlm": False}, "mlm False"),
        ({"layer_norms_after": False}, "layer_norms_after False"),
        ({"word_embed_type": "positional"}, "word_embed_type positional .there learned"),
        ({"reduction": "sum"}, "embeddings_reduction sum .there sum-layer-norm"),
        ({"num_heads": 12, "layers": 12}, "layers 12 .there 2.; num_heads 12 .there 2"),
        ({"dsz": 768}, "dsz 768 .there 32"),
        ({"rpr_k": 8}, "relative positions rpr"),
        ({"activation": "relu"}, "activation relu"),
        ({"activation": "tanh"}, "changed.yml: features.*'activation': 'tanh'"),
        ({"token_type_vsz": 3}, "token_type_vsz 3"),
    ],
)
def test_what_contradicts_the_model_is_an_error(
    place: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        source_of(place, **changes)


def golden(place: Path, **more: Any) -> Path:
    """A MEAD user's YAML, index and vocabulary for MEAD's own NPZ; returns the YAML."""
    directory = place / "golden"
    directory.mkdir(exist_ok=True)
    variant = json.loads((GOLDEN / "manifest.json").read_text())["variants"]["tlm_words_embed"]
    # [CLS] has the id 4, as with MEAD's vocabularies.
    words = ["[PAD]", "[UNK]", "[SEP]", "[MASK]", "[CLS]", *(f"w{i}" for i in range(5, 60))]
    (directory / "vocab.txt").write_text("\n".join(words) + "\n")
    index = [
        {"label": "bert-base-uncased-npz", "file": str(GOLDEN / variant["checkpoint"])},
        {"label": "bert-base-uncased", "vocab_file": "vocab.txt"},
    ]
    (directory / "index.json").write_text(json.dumps(index))
    config = page()
    # What the arrays do not show; all else is as it stands in MEAD's page.
    embeddings(config).update(num_heads=4, word_embed_type="learned-positional", **more)
    (directory / "mead.yml").write_text(yaml.safe_dump(config))
    return directory / "mead.yml"


def test_mead_s_own_file_agrees_through_the_yaml(place: Path) -> None:
    variant = json.loads((GOLDEN / "manifest.json").read_text())["variants"]["tlm_words_embed"]
    io = np.load(GOLDEN / variant["io"])
    for kind in ("cls", "mean", "max"):
        path = golden(place, pooling=kind)
        found = read_mead(str(path), str(path.parent / "index.json"))
        values = found.values
        assert values["pooling"] == kind
        source = load_source(
            values["model"], tokenizer=values["tokenizer"], mead_config=values["mead_config"]
        )
        assert (source.spec.prefix_id, source.spec.suffix_id) == (4, 2)
        assert any("[CLS]" in note for note in source.notes)
        spec = task_spec(source.spec, None)
        model = build_task_model(spec, HeadSpec(2, pooling=kind))
        for name, variable in named_variables(model).items():
            if name in source.encoder:
                variable.assign(source.encoder[name])
        x = tf.constant(io["x"])
        words = model.encode({"x": x})
        np.testing.assert_allclose(words, io["words"], atol=1e-4)
        pooled = pool(words, tf.not_equal(x, spec.pad_id), kind)
        np.testing.assert_allclose(pooled, io[f"pooled_{kind}"], atol=1e-4, err_msg=kind)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside, mappings and lists included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, one in inner:
        found.append((*path, key))
        if isinstance(one, dict | list):
            found += places(one, (*path, key))
    return found


WIDE = {
    "mlp": False,
    "rpr_k": 0,
    "activation": "gelu",
    "offset": 0,
    "ffn_dropout": 0.1,
    "d_ff": 64,
    "layers": 2,
    "dsz": 32,
    "pooling": "mean",
    "transformer_type": None,
    "embeddings_dropout": 0.1,
    "layer_norm_eps": 1.0e-12,
    "token_type_vsz": None,
    "ra_type": None,
    "windowed_ra": False,
}


@pytest.mark.parametrize("value", [["x"], "text", 7.5, None, {"a": 1}, True], ids=repr)
def test_no_value_ends_in_a_traceback(
    value: Any, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = golden(place, **WIDE)
    text = yaml.safe_load(path.read_text())
    text["model"] |= {"hsz": 8, "dropout": 0.1}
    text["train"] |= {"lr_scheduler_type": ["cosine"], "clip": 1.0}
    text["features"][0]["vectorizer"] |= {"mxlen": 16, "emit_begin_tok": ["[CLS]"], "type": "x"}
    text |= {"preproc": {"mxlen": 10}, "backend": "tf"}
    built = []

    def start(options: FinetuneOptions, _: Any) -> None:
        check(options)
        run = options.run
        built.append(
            load_source(run.model, tokenizer=run.tokenizer, mead_config=run.mead_config).spec
        )

    monkeypatch.setattr("tpu_tlm.training.finetuning.finetune.finetune", start)
    argv = ["--config", str(path), "--embeddings_index", str(path.parent / "index.json")]
    argv += ["--train", "t.csv", "--run_dir", "r", "--distribute", "none"]
    assert run_command(main, argv) in (0, 2)
    refused = 0
    for where in places(text):
        changed = copy.deepcopy(text)
        *outer, last = where
        inside = changed
        for key in outer:
            inside = inside[key]
        inside[last] = value
        path.write_text(yaml.safe_dump(changed))
        capsys.readouterr()
        code = run_command(main, argv)
        said = capsys.readouterr().err.strip()
        assert code in (0, 2), (where, said)
        refused += code == 2
        if code == 2:
            assert len(said.splitlines()) == 1 and said.startswith("error: "), (where, said)
    assert built and refused
