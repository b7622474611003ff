"""The pre-trained model that a task starts from: the only place of this room that reads models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.errors import OptionError, UsageError
from tpu_tlm.formats.classifier import SEQUENCE, TOKEN
from tpu_tlm.formats.electra_parts import part_of
from tpu_tlm.formats.huggingface.heads import HeadForm, head_form
from tpu_tlm.formats.load import load
from tpu_tlm.formats.mead.compare import compared
from tpu_tlm.formats.mead.npz import NO_TOKENIZER, MeadDescription, described_by
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.tasks.model import is_encoder, task_spec

_POOLER = "pooler/"
# Rows of RoBERTa's position table that no text reaches.
_POSITIONS = "positions/"
# Options of MEAD's embeddings that no flag of fine-tuning has, and our names of them.
_RATES = ("ffn_pdrop", "embeddings_dropout")


@dataclass(frozen=True)
class Source:
    """An encoder, or an encoder-decoder, with its tokenizer.

    encoder: values by path. pooler: BERT's pooler (`pooler/kernel`, `pooler/bias`), or empty.
    rest: of a causal model, its other values, which a checkpoint keeps as they are. extras: arrays
    that only the model's own format has a place for. family: HuggingFace's `model_type`. forms:
    the classification heads that HuggingFace has for such a model, by `formats.classifier` task.
    notes: what a user should know of the reading.
    """

    spec: ModelSpec
    encoder: dict[str, np.ndarray]
    pooler: dict[str, np.ndarray]
    rest: dict[str, np.ndarray]
    tokenizer: Tokenizer
    path: str
    notes: tuple[str, ...] = ()
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    family: str | None = None
    forms: dict[str, HeadForm] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Number of parameters of the encoder (and decoder)."""
        return sum(value.size for value in self.encoder.values())


def load_source(
    path: str,
    *,
    step: int | None = None,
    tokenizer: str | None = None,
    codes: str | None = None,
    mead_config: str | None = None,
    decoder: bool = False,
) -> Source:
    """The encoder of a model of any kind that `formats` reads.

    tokenizer, codes: as in `given_tokenizer`. mead_config: JSON, or a JSON file, of the
    hyper-parameters of an NPZ that MEAD wrote; a model that has its own must agree with them. Of
    ELECTRA's two models the discriminator; of an encoder-decoder or a dual encoder the encoder,
    with `decoder` all but the token head.
    Raises `UsageError` where there is no such model, or no tokenizer for it.
    """
    describe = described_by(mead_config)
    saved = load(path, step=step, describe=describe)
    if saved.spec.kind == "electra":
        saved = part_of(saved, "discriminator")
    notes = [note for note in saved.notes if tokenizer is None or note != NO_TOKENIZER]
    if describe is not None and not describe.used:
        notes += compared(describe.config, saved.spec, path)
    if decoder:
        _check_decoder(saved.spec, path)
    encoder = {n: v for n, v in saved.values.items() if is_encoder(n, decoder=decoder)}
    if not encoder:
        raise UsageError(f"{path}: a model of kind {saved.spec.kind!r} has no encoder to fine-tune")
    extras: Mapping[str, np.ndarray] = saved.extras
    pooler = {name: np.asarray(value) for name, value in extras.items() if name.startswith(_POOLER)}
    spec = saved.spec
    if spec.kind not in ("clm", "embed", "elmo") and not decoder:
        spec = dataclasses.replace(spec, kind="embed", generator=None)
    found = saved.tokenizer(tokenizer, codes)
    notes += found.notes if tokenizer is not None else ()
    if describe is not None:
        spec = _as_described(spec, found, describe, notes)
    rest = {n: v for n, v in saved.values.items() if spec.kind == "clm" and n not in encoder}
    bare = saved.replaced(spec=task_spec(spec, None, training=False), values=encoder | rest)
    forms = {task: head_form(bare, task) for task in (SEQUENCE, TOKEN)}
    return Source(
        spec,
        encoder,
        pooler,
        rest,
        found,
        path,
        tuple(notes),
        {n: np.asarray(v) for n, v in extras.items() if n.startswith(_POSITIONS)},
        saved.family,
        {task: form for task, form in forms.items() if form is not None},
    )


def _as_described(
    spec: ModelSpec, tokenizer: Tokenizer, described: MeadDescription, notes: list[str]
) -> ModelSpec:
    """The spec with dropout and framing as MEAD has them; adds lines about them to `notes`."""
    rates = {n: described.config[n] for n in _RATES if n in described.config and not spec.elmo}
    spec = dataclasses.replace(spec, config=dataclasses.replace(spec.config, **rates))
    if described.used:
        return described.framed(spec, tokenizer, notes, fine_tuning=True)
    if described.offset:
        notes.append(f"offset {described.offset}: the model's own first position is taken")
    if described.frame:
        shown = ", ".join(f"{name} {token}" for name, token in described.frame.items())
        notes.append(f"{shown}: the model's own tokens around a text are taken")
    return spec


def _check_decoder(spec: ModelSpec, path: str) -> None:
    """Raise `OptionError` where there is no decoder that a head can stand on."""
    if spec.kind != "seq2seq":
        raise OptionError(
            f"--pooling decoder: {path} is of kind {spec.kind!r}, an encoder-decoder is needed"
        )
    if spec.config.embedding_size not in (None, spec.config.d_model):
        raise OptionError(f"--pooling decoder: {path} has an --embedding_size of its own")
