"""A vocabulary grown with --add_tokens: text, dataset, warm start, export, `transformers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import hf
from tests.command_modules import preprocess
from tests.paths import DATA_FILES
from tests.toy import BARE
from tests.toy_runs import fit, one_device
from tpu_tlm.config import Config, TokenizerConfig, cli
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.data.tokenizers.factory import make_tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.compatibility import flags
from tpu_tlm.formats.load import load
from tpu_tlm.formats.save import save
from tpu_tlm.training import make_trainer
from tpu_tlm.training.initial_model import InitialModel
from tpu_tlm.training.warm_start import warm_start

pytestmark = hf.needs_torch
FILES = DATA_FILES / "tokenizers"
NEW = ["covid-19", "Tokamak", "[E1]", "\u6771\u4eac", "speech act"]
TEXTS = [
    "The Tokamak of covid-19, a tokamaks; (covid-19)!",
    "\u5728\u6771\u4eac\u3067 [E1] a speech act. Speech  acts",
    "naïve CAFÉ 12-3 covid-190",
]


def _bert(directory: Path) -> None:
    import torch
    import transformers

    lines = (FILES / "vocab.txt").read_text().split("\n")[:-1]
    (directory / "vocab.txt").write_text("".join(f"{line}\n" for line in lines))
    tokenizer = transformers.BertTokenizerFast.from_pretrained(str(directory), do_lower_case=True)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(lines),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    model = transformers.BertForMaskedLM(config)
    model.cls.predictions.bias.data.normal_()
    model.save_pretrained(str(directory))
    tokenizer.save_pretrained(str(directory))


def _gpt2(directory: Path) -> None:
    import tokenizers
    import torch
    import transformers

    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(
        (FILES / "speech.txt").read_text().split("\n"),
        vocab_size=500,
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    trained.save_model(str(directory))
    tokenizer = transformers.GPT2TokenizerFast.from_pretrained(str(directory))
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=512, n_embd=16, n_layer=1, n_head=2, n_inner=32, n_positions=32
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(str(directory))
    tokenizer.save_pretrained(str(directory))


KINDS = {"bert": (_bert, "BertForMaskedLM", "mlm"), "gpt2": (_gpt2, "GPT2LMHeadModel", "clm")}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model of `transformers` of each kind, the file of new tokens, and a dataset."""
    root = tmp_path_factory.mktemp("grown")
    (root / "new.txt").write_text("\ufeff" + "\n".join([*NEW, "", "t"]) + "\r\n")
    text = "".join(f"{line}\n\n" for line in [*TEXTS * 30, *(FILES / "speech.txt").open()])
    (root / "text.txt").write_text(text)
    for kind, (make, _, _) in KINDS.items():
        directory = root / kind
        directory.mkdir()
        make(directory)
        given = ["--input_files", str(root / "text.txt"), "--output", str(root / f"{kind}-data")]
        given += ["--vocab", str(directory), "--add_tokens", str(root / "new.txt")]
        preprocess.main([*given, "--seq_length", "16", "--workers", "1"])
    return {name: root / name for name in (*KINDS, "new.txt", "bert-data", "gpt2-data")}


def _options(models: dict[str, Path], kind: str, run_dir: Path, *more: object) -> Config:
    config = load(str(models[kind])).spec.config
    given = ["--train_dir", models[f"{kind}-data"], "--run_dir", run_dir, "--batch_size", 8]
    given += ["--init_from", models[kind], "--distribute", "none", "--warmup_steps", 0]
    given += ["--steps", 1, "--lr", 1e-30, "--weight_decay", 0, "--objective", KINDS[kind][2]]
    given += [*flags(config).split(), *BARE, *more]
    return Config(*cli.parse("toy", "", Config.groups(), [str(flag) for flag in given]))


def _theirs(directory: Path, grow: bool) -> Any:
    """The tokenizer as `transformers` loads it, with the new tokens added by itself."""
    import tokenizers
    import transformers

    found = transformers.AutoTokenizer.from_pretrained(str(directory))
    if grow:
        words = {"covid-19", "Tokamak", "speech act"}
        found.add_tokens([tokenizers.AddedToken(t, single_word=t in words) for t in NEW])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_data_and_export_split_as_transformers_with_the_tokens_added(
    models: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    before, expected = _theirs(models[kind], False), _theirs(models[kind], True)
    assert expected(TEXTS)["input_ids"] != before(TEXTS)["input_ids"]
    ours = open_dataset(str(models[f"{kind}-data"])).load_tokenizer()
    for text in TEXTS:
        assert ours.encode(text) == expected(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(ours.encode(text)) == expected.decode(ours.encode(text)), text
    first = len(before)
    assert [ours.tokens.index(token) for token in NEW] == list(range(first, first + len(NEW)))
    assert not set(range(first, first + len(NEW))) & set(ours.special_ids)
    fit(_options(models, kind, tmp_path / "run", "--add_tokens", models["new.txt"]))
    save(load(str(tmp_path / "run")), str(tmp_path / "out"), "hf")
    exported = _theirs(tmp_path / "out", False)
    assert exported(TEXTS)["input_ids"] == expected(TEXTS)["input_ids"]
    model = hf.load(KINDS[kind][1], tmp_path / "out")
    assert model.config.vocab_size == len(ours.tokens) == len(exported)
    added = json.loads((tmp_path / "out" / "tokenizer.json").read_text())["added_tokens"]
    assert [t["content"] for t in added if t["id"] >= first] == NEW
    table = model.get_input_embeddings().weight.detach().numpy()
    old = hf.load(KINDS[kind][1], models[kind]).get_input_embeddings().weight.detach().numpy()
    np.testing.assert_allclose(table[:first], old[:first], atol=1e-7)
    for index, token in enumerate(NEW, first):
        pieces = before(token, add_special_tokens=False)["input_ids"]
        np.testing.assert_allclose(table[index], old[pieces].mean(0), atol=1e-6, err_msg=token)


def test_rows_are_means_of_pieces_or_random(models: dict[str, Path], tmp_path: Path) -> None:
    trainer = make_trainer(_options(models, "bert", tmp_path / "run"), one_device(), display=False)
    spec, tokenizer = trainer.experiment.spec, trainer.experiment.datasets.tokenizer
    own = trainer.state.model_arrays()
    saved = load(str(models["bert"]))
    base = saved.tokenizer()
    first = len(base.tokens)
    initial = InitialModel(str(models["bert"]), saved, {})
    mean, told = warm_start(initial, spec, tokenizer, own)
    random, _ = warm_start(initial, spec, tokenizer, own, "random")
    assert any("5 new tokens (covid-19" in line and "mean" in line for line in told)
    for path in ("embeddings/x/table", "head/bias"):
        pieces = saved.values[path][base.encode("covid-19")]
        assert len(pieces) > 1
        np.testing.assert_allclose(mean[path][first], pieces.mean(0), rtol=1e-6)
        np.testing.assert_array_equal(random[path][first], own[path][first])
        np.testing.assert_array_equal(random[path][:first], saved.values[path][:first])


def test_rows_without_a_token_are_not_used(models: dict[str, Path], tmp_path: Path) -> None:
    """GPT-2's 512 rows have 500 tokens: data made with its own tokenizer fit."""
    given = ["--input_files", str(FILES / "speech.txt"), "--output", str(tmp_path / "data")]
    preprocess.main([*given, "--vocab", str(models["gpt2"]), "--seq_length", "16", "--workers=1"])
    options = _options({**models, "gpt2-data": tmp_path / "data"}, "gpt2", tmp_path / "run")
    trainer = make_trainer(options, one_device(), display=False)
    tokens = len(trainer.experiment.datasets.tokenizer.tokens)
    saved = load(str(models["gpt2"]))
    values, told = warm_start(
        InitialModel(str(models["gpt2"]), saved, {}),
        trainer.experiment.spec,
        trainer.experiment.datasets.tokenizer,
        trainer.state.model_arrays(),
    )
    assert any(f"{512 - tokens} rows of the model have no token" in line for line in told)
    theirs = saved.values["embeddings/x/table"]
    np.testing.assert_array_equal(values["embeddings/x/table"][:tokens], theirs[:tokens])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no token"),
        ("the\n", "all 1 tokens are in the vocabulary"),
        ("cat\n cat\n", r":2: ' cat' has white space"),
        ("cat\ndog\ncat\n", r":3: 'cat' stands in line 1"),
        ("##ology\n", "'##ology' is a piece"),
        ("Zork\nzork\n", "is not found in a text"),
        (b"caf\xe9\n", r":1: is not UTF-8"),
    ],
)
def test_files_of_tokens_are_checked(tmp_path: Path, text: str | bytes, says: str) -> None:
    (tmp_path / "new.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    config = TokenizerConfig(
        vocab=str(FILES / "vocab.txt"), cased=False, add_tokens=str(tmp_path / "new.txt")
    )
    with pytest.raises(UsageError, match=says):
        make_tokenizer(config)


def test_what_cannot_grow_is_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    (tmp_path / "new.txt").write_text("zork\n")
    bpe = {"codes": str(FILES / "codes"), "vocab": str(FILES / "vocab")}
    with pytest.raises(UsageError, match="cannot hold.*--to hf"):
        make_tokenizer(TokenizerConfig(**bpe, add_tokens=str(tmp_path / "new.txt")))
    with pytest.raises(UsageError, match="lacks 1 of its tokens.*'zork'"):
        options = _options(models, "bert", tmp_path / "run", "--add_tokens", tmp_path / "new.txt")
        make_trainer(options, one_device(), display=False)
