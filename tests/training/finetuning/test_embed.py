"""Vectors of texts into a file: equal to the model's, of any length, continued part by part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tasks.toy_tasks import toy_model
from tpu_tlm.config.embed import EmbedConfig
from tpu_tlm.embed import main
from tpu_tlm.errors import UsageError
from tpu_tlm.training.finetuning import embed as embedding

LONG = " ".join(["the film is very good"] * 20)
TEXTS = ["a good day", LONG, "it was", "bad", "a good day"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("embed")
    toy_model(directory)
    (directory / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    return directory


def config(place: Path, output: str, **more: object) -> EmbedConfig:
    return EmbedConfig(
        model=str(place / "model.npz"),
        tokenizer=str(place / "tokenizer"),
        input=str(place / "texts.txt"),
        output=str(place / output),
        **more,
    )  # type: ignore[arg-type]


def test_formats_hold_the_same_vectors(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--model", str(place / "model.npz"), "--tokenizer", str(place / "tokenizer")]
    assert main([*argv, "--input", str(place / "texts.txt"), "--output", str(place / "v.npz")]) == 0
    assert "texts/s" in capsys.readouterr().out
    vectors = np.load(place / "v.npz")["vectors"]
    assert vectors.shape == (5, 32) and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[0], vectors[4], atol=1e-6)
    embedding.embed(config(place, "v.npy", batch_size=2))
    np.testing.assert_allclose(np.load(place / "v.npy"), vectors, atol=1e-5)
    pq = pytest.importorskip("pyarrow.parquet")
    embedding.embed(config(place, "v.parquet"))
    table = pq.read_table(place / "v.parquet").to_pydict()
    assert table["text"] == TEXTS
    np.testing.assert_allclose(np.array(table["vector"]), vectors, atol=1e-6)
    assert not list(place.glob("*.parts"))


def test_a_long_text_is_the_mean_of_its_windows(place: Path) -> None:
    embedding.embed(config(place, "w.npy"))
    vectors = np.load(place / "w.npy")
    words, room = LONG.split(), 30
    parts = [" ".join(words[i : i + room]) for i in range(0, len(words), room)]
    (place / "parts.txt").write_text("\n".join(parts))
    own = EmbedConfig(
        model=str(place / "model.npz"),
        tokenizer=str(place / "tokenizer"),
        input=str(place / "parts.txt"),
        output=str(place / "p.npy"),
    )
    embedding.embed(own)
    weights = np.array([len(p.split()) + 2 for p in parts], float)
    expected = (np.load(place / "p.npy") * weights[:, None]).sum(0) / weights.sum()
    np.testing.assert_allclose(vectors[1], expected, atol=1e-5)


def test_normalized_vectors_have_length_one(place: Path) -> None:
    embedding.embed(config(place, "n.npy", normalize=True, pooling="cls"))
    np.testing.assert_allclose(np.linalg.norm(np.load(place / "n.npy"), axis=1), 1.0, atol=1e-5)


def test_an_interrupted_call_continues(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embedding, "PART", 2)
    call = embedding.Embedder.__call__
    calls = []

    def failing(self: embedding.Embedder, texts: list[str]) -> np.ndarray:
        calls.append(len(texts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return call(self, texts)

    with monkeypatch.context() as patch:
        patch.setattr(embedding.Embedder, "__call__", failing)
        with pytest.raises(KeyboardInterrupt):
            embedding.embed(config(place, "i.npy"))
    embedding.embed(config(place, "i.npy"))
    assert "1 of 3 parts" in capsys.readouterr().out
    embedding.embed(config(place, "j.npy"))
    np.testing.assert_array_equal(np.load(place / "i.npy"), np.load(place / "j.npy"))


def test_refusals(place: Path) -> None:
    with pytest.raises(UsageError, match="v.txt.*npz"):
        embedding.embed(config(place, "v.txt"))
    (place / "gap.txt").write_text("a\n\nb\n")
    with pytest.raises(UsageError, match="gap.txt:2"):
        embedding._texts(EmbedConfig(model="m", input=str(place / "gap.txt"), output="x.npy"))
