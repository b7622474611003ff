"""Options of preprocessing -> rules with token ids; options that cannot be meant are refused."""

from __future__ import annotations

from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.config import CorpusConfig, PairsConfig, PreprocessConfig
from tpu_tlm.data.corpus.pair_rows import RowRule
from tpu_tlm.data.preprocessing.packing import Packing
from tpu_tlm.data.preprocessing.pairs import PairRule
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.errors import UsageError

_COLUMNS = {"tsv": (0, 2), "ntp": (0, 1), "nsp": (0,)}


def check(corpus: CorpusConfig, config: PreprocessConfig, pairs: PairsConfig) -> None:
    """Raise `UsageError` for options without a meaning together, beyond what they declare."""
    if filesystem.exists(config.output) and not filesystem.is_directory(config.output):
        raise UsageError(f"--output {config.output}: is a file, a directory is needed")
    for option, place in (("--output", config.output), ("--work_dir", config.work_dir)):
        if config.of > 1 and (place or "").startswith("ram://"):
            raise UsageError(
                f"{option} {place}: no other process sees it: name a directory that all "
                f"{config.of} processes see, on a shared disk or gs://"
            )
    if pairs.pairs == "none":
        return
    if corpus.document != "blank-line":
        raise UsageError(f"--document: has no meaning with --pairs {pairs.pairs}: leave it out")
    wanted = _COLUMNS[pairs.pairs]
    if len(pairs.pair_columns) not in wanted or "0" in pairs.pair_columns:
        raise UsageError(
            f"--pair_columns {' '.join(pairs.pair_columns)}: --pairs {pairs.pairs} takes "
            f"{wanted[-1]} of them, numbers from 1"
        )


def _id_of(
    tokenizer: Tokenizer, config: PreprocessConfig | PairsConfig, flag: str, preset: str | None
) -> int | None:
    token = getattr(config, flag)
    if token is None:
        return None
    if token == "<EOS>" and tokenizer.kind != "bpe" and tokenizer.id_of(token) is None:
        return tokenizer.sep_id
    found = tokenizer.id_of(token)
    if found is None:
        can_add = tokenizer.kind == "bpe" and token.startswith(("<", "["))
        hint = " (add it to --extra_tokens)" if can_add else ""
        if flag in config.by_preset:
            raise UsageError(
                f"--preset {preset}: its {flag} is {token}, and the vocabulary has no such "
                f"token{hint}: give --{flag} TOKEN, or none"
            )
        raise UsageError(f"--{flag} {token}: the vocabulary has no such token{hint}")
    return found


def packing_of(config: PreprocessConfig, tokenizer: Tokenizer, pairs: bool) -> Packing:
    """How examples (of pairs: first texts) are packed. Raises `UsageError` for an unknown token."""
    return Packing(
        seq_length=config.seq_length,
        pad_id=tokenizer.pad_id,
        prefix=_id_of(tokenizer, config, "prefix", config.preset),
        suffix=_id_of(tokenizer, config, "suffix", config.preset),
        eol=None if pairs else _id_of(tokenizer, config, "eol_token", config.preset),
        documents=config.packing == "documents",
    )


def pair_rule_of(
    corpus: CorpusConfig, config: PreprocessConfig, pairs: PairsConfig, tokenizer: Tokenizer
) -> PairRule | None:
    """How pairs are made; None for examples of one text. Raises `UsageError`."""
    if pairs.pairs == "none":
        return None
    y = Packing(
        seq_length=config.seq_length if pairs.seq_length_y is None else pairs.seq_length_y,
        pad_id=tokenizer.pad_id,
        prefix=_id_of(tokenizer, pairs, "y_prefix", config.preset),
        suffix=_id_of(tokenizer, pairs, "y_suffix", config.preset),
        flag="--seq_length_y",
    )
    turn = None
    if pairs.pairs == "ntp" and not pairs.last_turn_only:
        default = tokenizer.kind != "bpe" and pairs.turn_sep == "<EOU>"
        if default and tokenizer.id_of("<EOU>") is None:
            turn = tokenizer.sep_id
        else:
            turn = _id_of(tokenizer, pairs, "turn_sep", config.preset)
    columns = tuple(pairs.pair_columns)
    rows = RowRule(pairs.pairs, columns, corpus.json_field, corpus.strict, pairs.pairs_format)
    return PairRule(rows, y, turn, pairs.last_turn_only)


def pair_metadata(pairs: PairsConfig, rule: PairRule, tokenizer: Tokenizer) -> dict[str, Any]:
    """The keys of `md.yml` that say how pairs were made."""
    return {
        "pack": None,
        "tok_on_eol": None,
        "pairs": pairs.pairs,
        "nctx_y": rule.y.seq_length,
        "y_prefix": pairs.y_prefix,
        "y_suffix": pairs.y_suffix,
        "turn_sep": None if rule.turn is None else tokenizer.tokens[rule.turn],
        "last_turn_only": rule.last_turn_only,
    }
