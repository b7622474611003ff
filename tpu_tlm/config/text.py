"""Options of text, vocabularies and datasets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from tpu_tlm.config.machines import (
    Runner,
    beam_option,
    check_index,
    index_option,
    of_option,
    runner_option,
)
from tpu_tlm.config.options import LARGEST_SEED, OptionGroup, opt
from tpu_tlm.config.presets import preset_option

SubwordType = Literal["bpe", "wordpiece", "hf"]
LearnedSubwordType = Literal["bpe", "wordpiece", "byte-bpe", "unigram"]
SUBWORDS: tuple[str, ...] = get_args(SubwordType)
LEARNED_SUBWORDS: tuple[str, ...] = get_args(LearnedSubwordType)

# None: found out from the files.
_BPE = {"subword_type": ("bpe", None)}
_NOT_BPE = {"subword_type": ("wordpiece", "byte-bpe", "unigram")}
_PAIRS = {"pairs": ("ntp", "nsp", "tsv")}
_NO_PAIRS = {"pairs": ("none",)}
_CASED = (
    "keep capital letters; false: lower-case (wordpiece: also strip accents, as BERT uncased does)"
)


@dataclass(frozen=True)
class CorpusConfig(OptionGroup):
    """Input text."""

    input_files: list[str] = opt(
        [],
        "files, directories or globs of text, local or gs://",
        required=True,
        unit="path",
        also_called=("train_file", "input", "corpus"),
    )
    input_pattern: str = opt("*.txt", "files that are taken from a directory", unit="glob")
    json_field: str = opt(
        "text",
        "field with the text in JSON lines (.json, .jsonl, also compressed); a.b: b inside a",
        unit="name",
        also_called=("text_column_name", "text_column"),
    )
    strict: bool = opt(
        False,
        "stop at the first bad input (undecodable bytes, empty file, JSON line without the field)",
    )
    document: Literal["blank-line", "line", "file"] = opt(
        "blank-line",
        "where a document of plain text ends: at a blank line, at every line, at the end of a file",
        only_with=_NO_PAIRS,
    )
    text_column: str | None = opt(
        None,
        "column that holds the text in .csv and .tsv files (a name in the first line, or a number "
        "from 1 where it has none), and in Parquet and Arrow files (none = --json_field)",
        unit="name",
    )


@dataclass(frozen=True)
class TokenizerConfig(OptionGroup):
    """Tokenizer."""

    subword_type: SubwordType | None = opt(
        None,
        "kind of subwords; hf: any tokenizer.json, spiece.model or HuggingFace model directory; "
        "none = what --vocab is, else bpe",
        decided_by_files=True,
    )
    codes: str | None = opt(
        None,
        "codes file of fastBPE or subword-nmt",
        unit="file",
        aliases=("subword_model_file",),
        only_with=_BPE,
    )
    vocab: str | None = opt(
        None,
        "fastBPE vocab file, BERT's vocab.txt, tokenizer.json, spiece.model, or a directory with "
        "tokenizer files",
        unit="path",
        aliases=("subword_vocab_file",),
        also_called=("vocab_file", "tokenizer_name"),
    )
    cased: bool | None = opt(
        None,
        f"{_CASED}; none = what the files beside --vocab say (a HuggingFace model's "
        "vocab.txt: whether it has capitals), else true",
        also_called={"do_lower_case": "with the opposite meaning"},
        decided_by_files=True,
    )
    extra_tokens: list[str] = opt(
        ["[CLS]", "[MASK]"],
        "tokens that get the ids after the four special ones",
        unit="token",
        only_with=_BPE,
    )
    add_tokens: str | None = opt(
        None,
        "file with further tokens, one a line, that get ids after the last one of --vocab (hf and "
        "wordpiece); train: the data must have been made with them",
        unit="file",
    )


@dataclass(frozen=True)
class VocabConfig(OptionGroup):
    """Vocabulary."""

    output: str = opt(
        "",
        "directory for codes and vocab (bpe) or vocab.txt (wordpiece)",
        required=True,
        unit="dir",
        also_called=("output_dir",),
    )
    preset: str | None = preset_option()
    subword_type: LearnedSubwordType = opt(
        "bpe",
        "bpe: fastBPE; wordpiece: BERT; byte-bpe: GPT-2, RoBERTa; unigram: SentencePiece",
        basic=True,
    )
    vocab_size: int = opt(
        30000,
        "bpe: number of merges (lines of codes); wordpiece: lines of vocab.txt",
        unit="entries",
        minimum=1,
        basic=True,
    )
    cased: bool = opt(
        True, _CASED, basic=True, also_called={"do_lower_case": "with the opposite meaning"}
    )
    min_frequency: int = opt(
        2, "pairs of pieces that occur less often are not merged", unit="count", minimum=1
    )
    workers: int = opt(
        0,
        "processes that count words; 0 = one per core",
        unit="processes",
        minimum=0,
        maximum=1024,
    )
    normalization: Literal["none", "nfc", "nfkc"] = opt(
        "none", "Unicode normalization of the text", only_with=_NOT_BPE
    )
    lower_case: bool | None = opt(None, "lower-case the text; none = the opposite of --cased")
    strip_accents: bool | None = opt(
        None,
        "remove accents; none = for lower-case wordpiece, as BERT uncased does",
        only_with=_NOT_BPE,
    )
    special_tokens: list[str] = opt(
        [], "special tokens besides those that the kind always has", unit="token"
    )
    reserve: int = opt(
        0,
        "number of ids kept free for later, called [unused0] to [unusedN]",
        unit="ids",
        minimum=0,
        maximum=1 << 20,
        only_with=_NOT_BPE,
    )
    overwrite: bool = opt(
        False,
        "replace the tokenizer in --output",
    )
    runner: Runner = runner_option()
    beam_options: list[str] = beam_option()
    index: int = index_option()
    of: int = of_option(
        "count the words together, each with its --index; all must see --work_dir, and process 0 "
        "learns from all counts"
    )
    work_dir: str | None = opt(
        None,
        "directory for word counts, local or gs://, with which an interrupted count continues; "
        "none = inside --output with --of or --runner beam, else none is used",
        unit="dir",
        shapes_data=False,
    )

    def check(self) -> None:
        check_index(self.index, self.of)


@dataclass(frozen=True)
class PreprocessConfig(OptionGroup):
    """Dataset."""

    output: str = opt(
        "",
        "dataset directory (local or gs://); with --valid_fraction it gets train/ and valid/",
        required=True,
        unit="dir",
        shapes_data=False,
        also_called=("output_dir",),
    )
    preset: str | None = preset_option(shapes_data=False)
    tokenizer: str | None = opt(
        None,
        "model directory, run, dataset or vocabulary whose tokenizer, case and framing (prefix, "
        "suffix, eol_token) are used",
        unit="dir",
        shapes_data=False,
        basic=True,
    )
    seq_length: int = opt(
        256,
        "tokens of an example, prefix and suffix included",
        unit="tokens",
        minimum=1,
        maximum=1 << 20,
        basic=True,
        aliases=("nctx",),
        also_called=("max_seq_length", "max_length", "block_size"),
    )
    prefix: str | None = opt(
        None,
        "token at the start of every example, never masked",
        unit="token",
        aliases=("x_prefix",),
        basic=True,
    )
    suffix: str | None = opt(
        None,
        "token at the end of every example, never masked",
        unit="token",
        aliases=("x_suffix",),
        basic=True,
    )
    eol_token: str | None = opt(
        "<EOS>",
        "token after every line (wordpiece: <EOS> means [SEP]); none = no token",
        unit="token",
        aliases=("tok_on_eol",),
        only_with=_NO_PAIRS,
    )
    packing: Literal["across", "documents"] = opt(
        "across",
        "across: every example is full, and may hold several documents; documents: an example "
        "ends with its document and is padded",
        aliases=("pack",),
        only_with=_NO_PAIRS,
    )
    max_file_size: float = opt(100.0, "maximum size of a shard", unit="MiB", above=0)
    shuffle: bool = opt(True, "shuffle the examples over the whole corpus")
    seed: int = opt(
        0,
        "seed of the shuffle and of the split",
        unit="integer",
        minimum=0,
        maximum=LARGEST_SEED,
    )
    valid_fraction: float = opt(
        0.0,
        "fraction of the documents that is held out in valid/",
        unit="fraction",
        minimum=0,
        below=1,
        basic=True,
        also_called={"validation_split_percentage": "as a fraction, not in percent"},
    )
    workers: int = opt(
        0,
        "processes; 0 = one per core",
        unit="processes",
        minimum=0,
        maximum=1024,
        shapes_data=False,
        also_called=("preprocessing_num_workers", "num_proc"),
    )
    runner: Runner = runner_option()
    beam_options: list[str] = beam_option()
    index: int = index_option()
    of: int = of_option(
        "make one dataset together, each with its --index; all must see --output and --work_dir"
    )
    work_dir: str | None = opt(
        None,
        "directory for temporary files, as large as the dataset, local or gs://; none = inside "
        "--output (where that is gs:// and without --of: the system's)",
        unit="dir",
        shapes_data=False,
    )

    def check(self) -> None:
        check_index(self.index, self.of)


@dataclass(frozen=True)
class PairsConfig(OptionGroup):
    """Pairs of texts."""

    pairs: Literal["none", "ntp", "nsp", "tsv"] = opt(
        "none",
        "ntp: next turn (lines of query, tab, response with turns joined by <EOU>; or "
        "conversations of one turn a line with empty lines between; or JSON lines with a list of "
        "turns); nsp: documents cut in two at a sentence; tsv: two columns or two JSON fields",
    )
    seq_length_y: int | None = opt(
        None,
        "tokens of the second text, prefix and suffix included; none = seq_length",
        unit="tokens",
        minimum=1,
        maximum=1 << 20,
        aliases=("nctx_y",),
        only_with=_PAIRS,
    )
    y_prefix: str | None = opt(
        None, "token at the start of every second text", unit="token", only_with=_PAIRS
    )
    y_suffix: str | None = opt(
        None, "token at the end of every second text", unit="token", only_with=_PAIRS
    )
    pair_columns: list[str] = opt(
        [],
        "tsv: the two columns, by number from 1 or by name in the first line, or the two JSON "
        "fields (none = 1 2, x y); ntp: the JSON field with the turns (none = turns)",
        unit="name",
        only_with={"pairs": ("ntp", "tsv")},
    )
    turn_sep: str = opt(
        "<EOU>",
        "ntp: token between the turns of a history (wordpiece without it: [SEP])",
        unit="token",
        only_with={"pairs": ("ntp",)},
    )
    pairs_format: Literal["auto", "table", "turns"] = opt(
        "auto",
        "ntp: plain text has rows of query, tab, response (table) or a turn a line (turns); "
        "auto: by the first MiB of each file",
        only_with={"pairs": ("ntp",)},
    )
    last_turn_only: bool = opt(
        False, "ntp: the history is the last turn only", only_with={"pairs": ("ntp",)}
    )
