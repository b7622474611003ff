"""An NPZ of MEAD's own, named with its hyper-parameters, through every door that takes a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tpu_tlm as tlm
from tests.paths import DATA_FILES
from tpu_tlm.config import TokenizerConfig
from tpu_tlm.data.tokenizers.factory import make_tokenizer
from tpu_tlm.embed import main as embed
from tpu_tlm.errors import run_command
from tpu_tlm.predict import main as predict

GOLDEN = DATA_FILES / "golden_mead"
NPZ = str(GOLDEN / "mlm_learned_postln_sumln.npz")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tokenizer directory whose words are the ids of the golden inputs, and MEAD's JSON."""
    place = tmp_path_factory.mktemp("doors")
    variants = json.loads((GOLDEN / "manifest.json").read_text())["variants"]
    config = {**variants["mlm_learned_postln_sumln"]["config"], "layer_norm_eps": 1e-12}
    (place / "mead.json").write_text(json.dumps({"config": config}))
    (place / "embed.json").write_text(json.dumps({"config": config, "kind": "embed"}))
    with np.load(NPZ) as arrays:
        size = next(a.shape[0] for k, a in arrays.items() if k.endswith("Embeddings/x/weights"))
    special = ["[PAD]", "[UNK]", "[SEP]", "[MASK]", "[CLS]"]
    words = [*special, *(f"w{i}" for i in range(len(special), size))]
    (place / "vocab.txt").write_text("\n".join(words) + "\n")
    options = TokenizerConfig(subword_type="wordpiece", vocab=str(place / "vocab.txt"))
    make_tokenizer(options).save(str(place / "tokenizer"))
    (place / "in.txt").write_text("w10 w11\n")
    return {"tokenizer": str(place / "tokenizer"), "mead_config": str(place / "mead.json")}


def test_every_door_gives_the_same_vectors(given: dict[str, Any], tmp_path: Path) -> None:
    # As a model that gives vectors, for which MEAD puts [CLS] and [SEP] around a text.
    given = {**given, "mead_config": given["mead_config"].replace("mead.json", "embed.json")}
    text = ["w10 w11 w12", "w20 w21"]
    vectors = tlm.load(NPZ, **given).encode(text, pooling="mean")
    assert vectors.shape == (2, 32) and np.isfinite(vectors).all()
    longer = tlm.load(NPZ, **given).encode([*text, " ".join(["w30"] * 12)], pooling="mean")
    np.testing.assert_allclose(longer[:2], vectors, atol=1e-5)
    alone = tlm.load(NPZ, **given).encode(text[:1], pooling="mean", batch_size=1)
    np.testing.assert_allclose(alone, vectors[:1], atol=1e-5)
    inline = Path(given["mead_config"]).read_text()
    again = tlm.load(NPZ, tokenizer=given["tokenizer"], mead_config=inline)
    np.testing.assert_array_equal(again.encode(text, pooling="mean"), vectors)
    layer = tlm.load_encoder(NPZ, pooling="mean", **given)
    np.testing.assert_allclose(np.asarray(layer(np.array(text))), vectors, atol=1e-5)
    (tmp_path / "in.txt").write_text("\n".join(text) + "\n")
    flags = [f"--{name}={value}" for name, value in given.items()]
    source, out = str(tmp_path / "in.txt"), tmp_path / "out.npy"
    assert embed(["--model", NPZ, "--input", source, "--output", str(out), *flags]) == 0
    np.testing.assert_allclose(np.load(out), vectors, atol=1e-5)
    given = {"pooling": "max", **given}
    assert tlm.embed(NPZ, tmp_path / "in.txt", tmp_path / "max.npz", **given) == (2, 32)
    with np.load(tmp_path / "max.npz") as found:
        (name,) = [n for n in found if found[n].shape == (2, 32)]
        largest = tlm.load_encoder(NPZ, **given)(np.array(text))
        np.testing.assert_allclose(found[name], np.asarray(largest), atol=1e-5)
    with pytest.raises(tlm.UsageError, match=r"^output .*: must end with \.npz"):
        tlm.embed(NPZ, tmp_path / "in.txt", tmp_path / "max.txt", **given)


def test_fill_mask(given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--{name}={value}" for name, value in given.items()]
    assert (
        predict(["fill-mask", "--model", NPZ, "--text", "w10 [MASK] w12", *flags, "--json", "true"])
        == 0
    )
    (mask,) = json.loads(capsys.readouterr().out.splitlines()[-1])["masks"]
    assert len(mask) == 5 and 0 < mask[0]["probability"] <= 1


def test_without_them_the_option_is_named(given: dict[str, Any]) -> None:
    with pytest.raises(tlm.UsageError, match="mead_config"):
        tlm.load(NPZ)
    with pytest.raises(tlm.UsageError, match=r"absent\.json"):
        tlm.load_encoder(NPZ, tokenizer=given["tokenizer"], mead_config="absent.json")


@pytest.mark.parametrize(
    "more", [["--step", "3"], ["--tokenizer", "t"], ["--top_k", "2"], ["--mead_config", "c"]]
)
def test_what_a_fine_tuned_run_does_not_use_is_refused(
    more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(predict, ["classify", "--model", "run", "--text", "a", *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and f"{more[0]}: acts only with" in error
