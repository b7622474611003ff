"""Options of text, vocabulary and dataset writing."""

from __future__ import annotations

from dataclasses import dataclass

from tpu_tlm.config.cli import opt

SUBWORDS = ("bpe", "wordpiece", "hf")
LEARNED_SUBWORDS = ("bpe", "wordpiece", "byte-bpe", "unigram")


@dataclass(frozen=True)
class CorpusConfig:
    """Input text."""

    input_files: list[str] = opt(
        [], "files, directories or globs of text, local or gs://", required=True, unit="path"
    )
    input_pattern: str = opt("*.txt", "which files to take inside a directory", unit="glob")
    json_field: str = opt(
        "text",
        "field that holds the text in JSON lines (.json, .jsonl, also compressed); a.b: b inside a",
        unit="name",
    )
    strict: bool = opt(
        False,
        "stop at the first bad input (undecodable bytes, empty file, JSON line without the field)",
    )
    document: str = opt(
        "blank-line",
        "where a document of plain text ends: at a blank line, at every line, at the end of a file",
        choices=("blank-line", "line", "file"),
    )
    text_column: str | None = opt(
        None,
        "column that holds the text in .csv and .tsv files (a name in the first line, or a number "
        "from 1 where it has none), and in Parquet and Arrow files (none = --json_field)",
        unit="name",
    )


@dataclass(frozen=True)
class TokenizerConfig:
    """Subword tokenizer."""

    subword_type: str | None = opt(
        None,
        "kind of subwords; hf: any tokenizer.json, spiece.model or HuggingFace model directory; "
        "none = what --vocab is, else bpe",
        choices=SUBWORDS,
    )
    codes: str | None = opt(
        None,
        "codes file of fastBPE or subword-nmt (bpe)",
        unit="file",
        aliases=("subword_model_file",),
    )
    vocab: str | None = opt(
        None,
        "fastBPE vocab file, BERT vocab.txt, tokenizer.json, spiece.model, or a directory with "
        "tokenizer files",
        unit="path",
        aliases=("subword_vocab_file",),
    )
    cased: bool | None = opt(
        None,
        "keep capital letters; false lower-cases (wordpiece: also strips accents, as BERT does); "
        "none = what the files beside --vocab say, else true",
    )
    extra_tokens: list[str] = opt(
        ["[CLS]", "[MASK]"], "tokens that get the ids after the four specials (bpe)", unit="token"
    )


@dataclass(frozen=True)
class VocabConfig:
    """Vocabulary learning."""

    output: str = opt("", "directory for the tokenizer files", required=True, unit="dir")
    subword_type: str = opt(
        "bpe",
        "bpe: fastBPE; wordpiece: BERT; byte-bpe: GPT-2, RoBERTa; unigram: SentencePiece",
        choices=LEARNED_SUBWORDS,
    )
    vocab_size: int = opt(
        30000,
        "bpe: merges to learn (lines of codes); others: ids, special tokens included",
        unit="entries",
    )
    cased: bool = opt(
        True,
        "keep capital letters; false lower-cases (wordpiece: also strips accents, as BERT uncased)",
    )
    min_frequency: int = opt(2, "pairs seen less often are not merged", unit="count")
    workers: int = opt(0, "processes that count words; 0 = one per core", unit="processes")
    normalization: str = opt(
        "none",
        "Unicode normalization before anything else (not of bpe)",
        choices=("none", "nfc", "nfkc"),
    )
    lower_case: bool | None = opt(None, "lower-case the text; none = the opposite of --cased")
    strip_accents: bool | None = opt(
        None, "remove accents (not of bpe); none = for lower-case wordpiece, as BERT uncased does"
    )
    special_tokens: list[str] = opt(
        [], "special tokens beside those that the kind always has", unit="token"
    )
    reserve: int = opt(
        0, "ids kept free for later as [unused0], [unused1] ... (not of bpe)", unit="ids"
    )
    overwrite: bool = opt(False, "replace the tokenizer that --output holds")


@dataclass(frozen=True)
class PreprocessConfig:
    """Dataset writing."""

    output: str = opt(
        "",
        "dataset directory (local or gs://); with --valid_fraction gets train/ and valid/",
        required=True,
        unit="dir",
    )
    seq_length: int = opt(
        256,
        "length of an example, prefix and suffix included",
        unit="tokens",
        aliases=("nctx",),
    )
    prefix: str | None = opt(
        None,
        "token put at the start of every example, never masked",
        unit="token",
        aliases=("x_prefix",),
    )
    suffix: str | None = opt(
        None,
        "token put at the end of every example, never masked",
        unit="token",
        aliases=("x_suffix",),
    )
    eol_token: str | None = opt(
        "<EOS>",
        "token appended to every line (wordpiece: <EOS> means [SEP]); none appends nothing",
        unit="token",
        aliases=("tok_on_eol",),
    )
    packing: str = opt(
        "across",
        "across: full examples run over lines and documents; documents: boundaries kept, the rest "
        "padded",
        choices=("across", "documents"),
        aliases=("pack",),
    )
    max_file_size: float = opt(100.0, "largest size of a shard", unit="MiB")
    shuffle: bool = opt(True, "shuffle examples over the whole corpus while writing")
    seed: int = opt(0, "seed of the shuffle and of the split", unit="integer")
    valid_fraction: float = opt(0.0, "share of the documents held out into valid/", unit="0..1")
    workers: int = opt(0, "processes; 0 = one per core", unit="processes")
    work_dir: str | None = opt(
        None,
        "local scratch space for a copy of the dataset; none = in --output (gs://: temporary)",
        unit="dir",
    )


@dataclass(frozen=True)
class PairsConfig:
    """Pairs of texts instead of examples of one text."""

    pairs: str = opt(
        "none",
        "ntp: next turn (lines of query, tab, response, whose history is joined by <EOU>; or "
        "conversations, a turn a line, a blank line between; or JSON lines with a list of turns); "
        "nsp: documents cut in two between sentences; tsv: columns, or fields of JSON lines",
        choices=("none", "ntp", "nsp", "tsv"),
    )
    seq_length_y: int | None = opt(
        None,
        "length of the second text, prefix and suffix included; none = seq_length",
        unit="tokens",
        aliases=("nctx_y",),
    )
    y_prefix: str | None = opt(None, "token put at the start of every second text", unit="token")
    y_suffix: str | None = opt(None, "token put at the end of every second text", unit="token")
    pair_columns: list[str] = opt(
        [],
        "tsv: the two columns, by number from 1 or by the names in the first line, or the two JSON "
        "fields (none = 1 2, x y); ntp: the JSON field with the turns (none = turns)",
        unit="name",
    )
    turn_sep: str = opt(
        "<EOU>",
        "ntp: token between the turns of a history (wordpiece without it: [SEP])",
        unit="token",
    )
    pairs_format: str = opt(
        "auto",
        "ntp: plain text has rows of query, tab, response (table) or a turn a line (turns); "
        "auto: by the first MiB of each file",
        choices=("auto", "table", "turns"),
    )
    last_turn_only: bool = opt(False, "ntp: the history is the last turn alone")
