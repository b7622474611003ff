"""Rows for tokens that a model's data have and the model lacks (preprocess --add_tokens)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.spec import ModelSpec

# Variables with one row for each id, by the end of their path, and the axis of the rows.
_ROWS = {"embeddings/x/table": 0, "head/bias": 0, "head/kernel": 1}
# Texts that both tokenizers must split alike.
_PROBES = ("The quick brown fox, don't; 12-3.", "x\u00a0y caf\u00e9 \u6771\u4eac", "  a B\tc")


def with_vocabulary_of(
    saved: PretrainedModel,
    spec: ModelSpec,
    tokenizer: Tokenizer,
    random: Mapping[str, np.ndarray] | None = None,
) -> tuple[PretrainedModel, list[str]]:
    """The model with a row for every id of a run's vocabulary, and notes.

    Unchanged where the tokenizer is the model's own and has as many tokens as the model rows.
    Tokens that `tokenizer` has beyond the model's get rows: the mean of the rows of the pieces that
    the model's tokenizer makes of them, or those of `random` (values of the run by path). Rows
    beyond the last token (a table that was padded) are left out. Raises `UsageError` where both
    tokenizers split a text into other pieces.
    """
    base = _own_tokenizer(saved, spec, tokenizer)
    if base is None:
        return saved, []
    old, count = len(base.tokens), len(tokenizer.tokens)
    if tokenizer.tokens[:old] != base.tokens:
        return saved, []  # `check_start` refuses it
    new = range(old, count)
    if new:
        _check_splits(saved, base, tokenizer)
    values = dict(saved.values)
    pieces = [base.encode(tokenizer.tokens[index]) for index in new] if random is None else []
    for path, array in saved.values.items():
        axis = next((axis for end, axis in _ROWS.items() if path.endswith(end)), None)
        if axis is None:
            continue
        rows = np.moveaxis(array, axis, 0)
        sentinels = rows[saved.spec.vocab_size - saved.spec.sentinels : saved.spec.vocab_size]
        if random is None:
            added = [rows[ids].mean(0) if ids else rows[:old].mean(0) for ids in pieces]
        else:
            initial = np.moveaxis(random[path], axis, 0) if path in random else None
            added = [np.zeros_like(rows[0]) if initial is None else initial[i] for i in new]
        parts = [rows[:old], *(row[None] for row in added), sentinels]
        values[path] = np.moveaxis(_padded(np.concatenate(parts)), 0, axis)
    total = count + saved.spec.sentinels
    notes = []
    if new:
        how = "the mean of the pieces that each replaces" if random is None else "random"
        shown = ", ".join(tokenizer.tokens[index] for index in new[:5])
        more = f" and {len(new) - 5:,} more" if len(new) > 5 else ""
        notes.append(f"{len(new):,} new tokens ({shown}{more}): {how} (--new_token_init)")
    left = saved.spec.vocab_size - saved.spec.sentinels - old
    if left > 0:
        notes.append(f"{left:,} rows of the model have no token: not used")
    grown = saved.replaced(
        values=values,
        spec=replace(saved.spec, vocab_size=total),
        own_tokenizer=tokenizer,
        fingerprint=tokenizer.fingerprint(),
    )
    return grown, notes


def _own_tokenizer(
    saved: PretrainedModel, spec: ModelSpec, tokenizer: Tokenizer
) -> Tokenizer | None:
    """The model's tokenizer, where its vocabulary must be fitted to the run's; else None."""
    same_size = saved.spec.vocab_size == spec.vocab_size
    if saved.spec.sentinels != spec.sentinels:
        return None
    if same_size and saved.fingerprint in (None, tokenizer.fingerprint()):
        return None
    if saved.own_tokenizer is None and saved.tokenizer_dir is None:
        return None
    found = saved.tokenizer()
    return None if same_size and found.tokens == tokenizer.tokens else found


def _check_splits(saved: PretrainedModel, base: Tokenizer, tokenizer: Tokenizer) -> None:
    first = len(base.tokens)
    for text in _PROBES:
        ids = tokenizer.encode(text)
        if max(ids, default=0) < first and ids != base.encode(text):
            raise UsageError(
                f"--init_from {saved.source}: its tokenizer splits a text into other pieces than "
                "the one of this data; preprocess the text with --vocab MODEL --add_tokens FILE"
            )


def _padded(rows: np.ndarray) -> np.ndarray:
    from tpu_tlm.models.layers.embeddings_stack import padded_vocab_size

    missing = padded_vocab_size(len(rows)) - len(rows)
    return np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)])
