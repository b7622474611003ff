"""Writing a HuggingFace directory: safetensors, config.json and tokenizer files that `transformers` loads as its own."""

from __future__ import annotations

import json

import numpy as np

from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.huggingface import bert, gpt2
from tpu_tlm.formats.huggingface import config as hf_config
from tpu_tlm.formats.huggingface import tokenizer as hf_tokenizer
from tpu_tlm.formats.huggingface.bert import FIRST_POSITIONS, POSITIONS
from tpu_tlm.formats.huggingface.read import CONFIG, WEIGHTS
from tpu_tlm.formats.huggingface.safetensors import encode
from tpu_tlm.formats.mapping import Arrays, Pair, written
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.spec import ModelSpec

_CLASS = {"bert": "Bert", "roberta": "Roberta", "electra": "Electra"}
# Parts of the model itself; heads carry no prefix.
_BODY = ("embeddings.", "embeddings_project.", "encoder.", "pooler.")


def choose_family(saved: PretrainedModel, asked: str | None) -> str:
    """The family to write: the one that was asked for, or the nearest to the model."""
    if asked is not None:
        return asked
    config = saved.spec.config
    if saved.spec.kind == "clm":
        return "gpt2"
    if (
        saved.spec.kind == "discriminator"
        or (config.embedding_size or config.d_model) != config.d_model
    ):
        return "electra"
    return "roberta" if FIRST_POSITIONS in saved.extras else "bert"


def hf_files(
    saved: PretrainedModel, family: str | None = None
) -> tuple[dict[str, bytes], list[str]]:
    """The files of the directory by name, and notes for the user.

    Raises `UsageError` naming the options of a model that the family has no place for.
    """
    family = choose_family(saved, family)
    if saved.spec.kind not in (("clm",) if family == "gpt2" else ("mlm", "embed", "discriminator")):
        raise UsageError(
            f"{saved.source}: a model of kind {saved.spec.kind!r} cannot be written as {family}"
        )
    if saved.spec.kind == "discriminator" and family != "electra":
        raise UsageError(
            f"{saved.source}: a discriminator can be written as electra only, not as {family}"
        )
    notes: list[str] = []
    if family == "gpt2":
        spec, arrays, architecture = saved.spec, _gpt2(saved), "GPT2LMHeadModel"
    else:
        spec, arrays, architecture, notes = _bert(saved, family)
    config = hf_config.config_of(spec, family, architecture, saved.source)
    # What was written is a BERT; what it was made from travels along.
    config[hf_config.SPEC_KEY] = json.loads(saved.spec.to_json())
    if not saved.spec.config.mask_pad and family != "gpt2":
        notes.append(
            f"this model was trained to see padding, {family} does not: the numbers agree for texts without it"
        )
    found = {WEIGHTS: encode(arrays, {"format": "pt"})}
    if (tokenizer := _tokenizer(saved)) is not None:
        more, said = hf_tokenizer.tokenizer_files(tokenizer, spec)
        found.update(more)
        notes += said
    elif saved.carried:
        found.update(saved.carried)
    else:
        notes.append("no tokenizer files: none lies beside the model")
    found[CONFIG] = (json.dumps(config, indent=2) + "\n").encode()
    return found, notes


def _tokenizer(saved: PretrainedModel) -> Tokenizer | None:
    return (
        saved.tokenizer()
        if saved.own_tokenizer is not None or saved.tokenizer_dir is not None
        else None
    )


def _gpt2(saved: PretrainedModel) -> Arrays:
    _must_fit(saved.spec, "gpt2", saved.source)
    arrays = written(gpt2.pairs(saved.spec), saved.values)
    return {
        name if name.startswith("lm_head.") else f"transformer.{name}": array
        for name, array in arrays.items()
    }


def _must_fit(spec: ModelSpec, family: str, source: str) -> None:
    # Before the arrays are laid out: a variable without a place would be a defect of ours, an option without one is the user's.
    hf_config.config_of(spec, family, "", source)


def _bert(saved: PretrainedModel, family: str) -> tuple[ModelSpec, Arrays, str, list[str]]:
    spec, values, added = bert.completed(saved.spec, saved.values, saved.source)
    _must_fit(spec, family, saved.source)
    arrays = written(bert.pairs(spec, family), values)
    notes = [f"added {what}, which {family} always has" for what in added]
    if spec.kind != saved.spec.kind:
        notes.append(
            "written as an encoder without a token head: the other program has none like this model's (--mlm_head bert has)"
        )
    if family == "roberta":
        width = arrays[POSITIONS].shape[1]
        first = saved.extras.get(FIRST_POSITIONS, np.zeros((spec.pad_id + 1, width), np.float32))
        if len(first) != spec.pad_id + 1:
            raise UsageError(
                f"{saved.source}: padding id {spec.pad_id} and {len(first)} unreached positions do not go together"
            )
        arrays[POSITIONS] = np.concatenate([first, arrays[POSITIONS]])
    pooler = _optional(saved, list(bert.pooler_pairs())) if family != "electra" else {}
    next_sentence = (
        _optional(saved, list(bert.next_sentence_pairs()))
        if family == "bert" and pooler and spec.kind == "mlm"
        else {}
    )
    kept = {FIRST_POSITIONS if family == "roberta" else ""}
    for part in (pooler, next_sentence):
        arrays.update(
            written(
                [pair for pair, _ in part.values()],
                {path: array for path, (_, array) in part.items()},
            )
        )
        kept |= set(part)
    if dropped := sorted(set(saved.extras) - kept):
        notes.append(f"{family} has no place for {', '.join(dropped)}: not written")
    suffix = {"embed": "Model", "discriminator": "ForPreTraining"}.get(
        spec.kind, "ForPreTraining" if next_sentence else "ForMaskedLM"
    )
    if suffix == "Model" and not pooler and family != "electra":
        notes.append(
            f"there is no pooler: load it with {_CLASS[family]}Model.from_pretrained(DIR, add_pooling_layer=False)"
        )
    prefix = "" if suffix == "Model" else f"{family}."
    return (
        spec,
        {prefix + n if n.startswith(_BODY) else n: a for n, a in arrays.items()},
        _CLASS[family] + suffix,
        notes,
    )


def _optional(saved: PretrainedModel, layout: list[Pair]) -> dict[str, tuple[Pair, np.ndarray]]:
    """Path -> place and array of a part that the model's files held beside our model; empty when they did not."""
    if not all(pair.path in saved.extras for pair in layout):
        return {}
    return {pair.path: (pair, saved.extras[pair.path]) for pair in layout}
