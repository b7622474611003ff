"""A tagger that MEAD wrote (`TLM/output`), and hyper-parameters that its arrays show."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.paths import DATA_FILES
from tpu_tlm.convert import main as convert
from tpu_tlm.data.tokenizers.given import given_tokenizer
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.classifier import TOKEN
from tpu_tlm.formats.load import load
from tpu_tlm.formats.mead.arrays import read_npz
from tpu_tlm.formats.mead.npz import MeadDescription, described_by_json, npz_bytes
from tpu_tlm.formats.mead.shown import shown
from tpu_tlm.predict import main as predict

HERE = DATA_FILES / "golden_mead"
VARIANTS = json.loads((HERE / "manifest.json").read_text())["variants"]
GOLDEN = Path(os.environ.get("GOLDEN_MEAD", HERE))
ALL = json.loads((GOLDEN / "manifest.json").read_text())["variants"]


def arrays_of(name: str) -> dict[str, np.ndarray]:
    return read_npz((HERE / VARIANTS[name]["checkpoint"]).read_bytes(), name)


def tagger(path: Path, labels: int = 5) -> dict[str, np.ndarray]:
    """Write a golden model with MEAD's output layer of a tagger."""
    arrays = arrays_of("mlm_learned")
    rng = np.random.default_rng(0)
    width = arrays["TLM/Embeddings/x/weights"].shape[1]
    arrays["TLM/output/weights"] = rng.normal(size=(labels, width)).astype(np.float32)
    arrays["TLM/output/bias"] = rng.normal(size=labels).astype(np.float32)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return arrays


def read(path: Path, **config: Any) -> Any:
    given = {"kind": "tagger", "config": {"num_heads": 4, **config}}
    return load(str(path), describe=described_by_json(json.dumps(given).encode(), "mead.json"))


def test_a_tagger_is_read_as_a_classifier_of_tokens_and_written_back(tmp_path: Path) -> None:
    arrays = tagger(tmp_path / "t.npz")
    saved = read(tmp_path / "t.npz")
    assert saved.classifier.task == TOKEN and saved.classifier.labels[4] == "LABEL_4"
    assert saved.spec.config.layer_norm_eps == 1e-6  # that of MEAD's tagger
    hidden = np.random.default_rng(1).normal(size=(2, 3, 32)).astype(np.float32)
    logits = saved.classifier.logits(saved.extras, hidden, np.ones((2, 3)))
    expected = hidden @ arrays["TLM/output/weights"].T + arrays["TLM/output/bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    (tmp_path / "ours.npz").write_bytes(npz_bytes(saved))
    written = read_npz((tmp_path / "ours.npz").read_bytes(), "ours")
    for key, array in arrays.items():
        np.testing.assert_array_equal(written[key], array, err_msg=key)
    again = load(str(tmp_path / "ours.npz"))
    assert again.classifier == saved.classifier and again.extras.keys() == saved.extras.keys()


def test_a_tagger_predicts_after_its_conversion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tagger(tmp_path / "t.npz")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(5, 60))]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "mead.json").write_text(json.dumps({"kind": "tagger", "config": {"num_heads": 4}}))
    argv = [str(tmp_path / "t.npz"), str(tmp_path / "ours.npz")]
    argv += ["--mead_config", str(tmp_path / "mead.json")]
    argv += ["--tokenizer", str(tmp_path / "vocab.txt")]
    assert convert(argv) == 0
    said = capsys.readouterr().out
    assert "lower-case" in said and "begin with [CLS] and end with [SEP]" in said
    assert load(argv[1]).spec.prefix_id == 2 and load(argv[1]).spec.suffix_id == 3
    given = ["tag", "--model", str(tmp_path / "ours.npz"), "--text", "w5 W6 w7", "--json"]
    assert predict(given) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["text"] == ["w5", "W6", "w7"] and all("LABEL_" in tag for tag in line["guess"])


def test_the_frame_of_a_tagging_corpus() -> None:
    files = DATA_FILES / "tokenizers"
    bpe = given_tokenizer(str(files / "vocab"), str(files / "codes"))
    base = load(str(HERE / "mlm_learned.npz"), describe=described(kind="tagger")).spec

    def framed(**given: Any) -> tuple[int | None, int | None]:
        notes: list[str] = []
        spec = described(**given).framed(base, bpe, notes)
        assert bool(notes) == (spec.prefix_id is not None)
        return spec.prefix_id, spec.suffix_id

    assert framed(kind="tagger") == (1, 2)  # <GO>, <EOS>
    assert framed(kind="mlm") == (None, None)
    assert framed(kind="mlm", frame={"prefix": "[CLS]"}) == (4, None)
    with pytest.raises(UsageError, match="frame: prefix must be text"):
        framed(kind="mlm", frame={"prefix": 3})


def described(**given: Any) -> MeadDescription:
    text = json.dumps({"config": {"num_heads": 4}, **given}).encode()
    return described_by_json(text, "mead.json")


def test_labels_beside_the_file(tmp_path: Path) -> None:
    tagger(tmp_path / "t.npz")
    (tmp_path / "labels.json").write_text(json.dumps({"O": 1, "<PAD>": 0, "B": 2, "I": 3, "E": 4}))
    assert read(tmp_path / "t.npz").classifier.labels == ("<PAD>", "O", "B", "I", "E")
    (tmp_path / "labels.json").write_text(json.dumps({"O": 1, "B": [2]}))
    found = read(tmp_path / "t.npz")
    assert found.classifier.labels[0] == "LABEL_0" and "no labels.json with 5" in found.notes[1]


def test_tables_in_place_of_an_output_layer_are_refused(tmp_path: Path) -> None:
    arrays = arrays_of("mlm_learned")
    # What MEAD writes for tied models with learned positions.
    arrays["TLM/output/weights"] = arrays["TLM/Embeddings/x/pos_weights"]
    arrays["TLM/output/bias"] = arrays["TLM/Embeddings/x/weights"]
    np.savez(tmp_path / "t.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(TlmError, match="TLM/output/bias.*no output layer"):
        read(tmp_path / "t.npz")


@pytest.mark.parametrize("name", sorted(ALL))
def test_what_the_arrays_show_is_what_mead_was_told(name: str) -> None:
    config = ALL[name]["config"]
    if "source" in config:
        config = ALL[config["source"].removesuffix(".npz")]["config"]
    found = shown(read_npz((GOLDEN / ALL[name]["checkpoint"]).read_bytes(), name), name)
    for option in ("d_model", "d_ff", "layers", "layer_norms_after", "embeddings_reduction"):
        if option in config and option in found:
            assert found[option] == config[option], option
    assert {"d_model", "d_ff", "layers"} <= found.keys()
    if "num_heads" in found:
        assert found["num_heads"] == config["num_heads"]
    if found.get("rpr_k"):
        reach = config["rpr_k"]
        assert found["rpr_k"] == (reach if isinstance(reach, list) else [reach] * found["layers"])
        assert "num_heads" in found


@pytest.mark.parametrize("name", ["mlm_rpr8", "mlm_t5", "mlm_learned_postln_sumln_tt"])
def test_sizes_need_not_be_given(name: str) -> None:
    variant = VARIANTS[name]
    path = str(HERE / variant["checkpoint"])

    def spec(config: dict[str, Any]) -> Any:
        text = json.dumps({"kind": "embed", "config": config}).encode()
        return load(path, describe=described_by_json(text, "mead.json")).spec

    little = {} if name != "mlm_learned_postln_sumln_tt" else {"num_heads": 4}
    assert spec({**little, "layer_norm_eps": 1e-12}) == spec(variant["config"])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "number of heads.*12 does not divide d_model 32"),
        ({"num_heads": 4, "d_ff": 3072}, "show d_ff 64, not 3072"),
        ({"num_heads": 4, "dsz": 768}, "show dsz 32, not 768"),
        ({"num_heads": 4, "layers": 12}, "show layers 2, not 12"),
        ({"num_heads": 4, "layer_norms_after": True}, "show layer_norms_after False, not True"),
        ({"num_heads": 4, "reduction": "sum-layer-norm"}, "show embeddings_reduction sum, not"),
        ({"num_heads": 4, "word_embed_type": "positional"}, "16 learned.*contradicts.*positional"),
        ({"num_heads": 4, "token_type_vsz": 2}, "no token types, not token_type_vsz 2"),
        ({"num_heads": 4, "activation": "tanh"}, "'activation': 'tanh' is not one of gelu"),
        ({"num_heads": 4, "offset": 16}, "offset 16.*16 positions"),
        ({"num_heads": 4, "offset": "a"}, "offset must be a whole number"),
    ],
)
def test_what_the_arrays_contradict_is_an_error(config: dict[str, Any], words: str) -> None:
    text = json.dumps({"kind": "embed", "config": config}).encode()
    with pytest.raises(UsageError, match=words):
        describe = described_by_json(text, "mead.json")
        load(str(HERE / "mlm_learned.npz"), describe=describe)


def test_an_offset_shifts_the_positions(tmp_path: Path) -> None:
    table = arrays_of("mlm_learned")["TLM/Embeddings/x/pos_weights"]
    text = json.dumps({"kind": "embed", "config": {"num_heads": 4, "offset": 2}}).encode()
    saved = load(str(HERE / "mlm_learned.npz"), describe=described_by_json(text, "mead.json"))
    np.testing.assert_array_equal(saved.values["embeddings/x/positions"], table[2:])
    np.testing.assert_array_equal(saved.extras["positions/first"], table[:2])
    assert saved.spec.config.max_positions == len(table) - 2
