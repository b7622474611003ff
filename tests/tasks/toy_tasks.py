"""A tiny pre-trained model, and labelled data that it learns in a few steps."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from tpu_tlm.config import ModelConfig, TokenizerConfig
from tpu_tlm.config.finetune import FinetuneConfig, FitConfig, HeadConfig, TaskDataConfig
from tpu_tlm.config.training import RuntimeConfig
from tpu_tlm.data.tokenizers.factory import make_tokenizer
from tpu_tlm.devices.select import Devices
from tpu_tlm.formats.mead.npz import npz_bytes
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.tasks.options import FinetuneOptions

GOOD = "good fine happy sunny great".split()
BAD = "bad sad gloomy awful poor".split()
OTHER = "the a film day it was is very and house tree run ##s un ##known Paris John".split()
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *OTHER]


def cpu() -> Devices:
    """This machine's processor, without XLA: compiling takes longer than these models train."""
    return Devices(None, "cpu", 1, "CPU", "test", xla=False)


def toy_model(directory: Path, *, kind: str = "mlm", length: int = 32, **config: Any) -> Path:
    """Write NAME.npz and `tokenizer/` of a random model; returns the NPZ."""
    directory.mkdir(parents=True, exist_ok=True)
    vocab = directory / "vocab.txt"
    vocab.write_text("\n".join(WORDS) + "\n")
    tokenizer = make_tokenizer(TokenizerConfig(subword_type="wordpiece", vocab=str(vocab)))
    tokenizer.save(str(directory / "tokenizer"))
    sizes = {"d_model": 32, "d_ff": 64, "num_heads": 2, "num_layers": 2, "rpr_k": [0]}
    sizes |= {"position_encoding": ["learned"], "type_vocab_size": 2, "weight_std": 0.1}
    spec = ModelSpec(
        ModelConfig(**{**sizes, **config}), len(WORDS), length, kind=kind, prefix_id=2, suffix_id=3
    )
    values = {path: np.asarray(v) for path, v in named_variables(build_model(spec, seed=0)).items()}
    saved = PretrainedModel(values, spec, "toy", tokenizer.fingerprint())
    path = directory / "model.npz"
    path.write_bytes(npz_bytes(saved))
    return path


def sentence(rng: np.random.Generator, words: list[str], most: int = 12) -> str:
    """A sentence of other words with one of `words` in it."""
    parts = list(rng.choice(OTHER[:10], rng.integers(2, most)))
    parts.insert(int(rng.integers(0, len(parts) + 1)), str(rng.choice(words)))
    return " ".join(parts)


def reviews(path: Path, count: int, seed: int = 0, good: float = 0.5) -> Path:
    """A CSV of texts with the label pos or neg."""
    rng = np.random.default_rng(seed)
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for _ in range(count):
            positive = bool(rng.random() < good)
            text = sentence(rng, GOOD if positive else BAD)
            writer.writerow([text, "pos" if positive else "neg"])
    return path


def options(directory: Path, **values: Any) -> FinetuneOptions:
    """Options for a tiny run; those that are given win.

    Of one length: each traces the step anew, which takes longer than a toy run of it.
    """
    base = FinetuneOptions(
        FinetuneConfig(
            model=str(directory / "model.npz"),
            tokenizer=str(directory / "tokenizer"),
            run_dir=str(directory / "run"),
        ),
        TaskDataConfig(buckets=1),
        HeadConfig(),
        FitConfig(lr=3e-3, epochs=4, batch_size=16),
        RuntimeConfig(distribute="none"),
    )
    return base.changed(**values)


def tags(path: Path, count: int) -> Path:
    """CoNLL columns of sentences with a person and a place, no two alike."""
    lines = []
    for i in range(count):
        between = " ".join(OTHER[(i >> bit) % 9] for bit in (0, 2, 4))
        sentence_ = [("John", "B-PER"), *((w, "O") for w in between.split()), ("Paris", "B-LOC")]
        lines += [f"{word} {tag}" for word, tag in sentence_] + [""]
    path.write_text("\n".join(lines) + "\n")
    return path
