"""BPE: MEAD's ids, fastBPE's pieces from both engines, errors that name file and line."""

from __future__ import annotations

import importlib.util
import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

from tests.paths import DATA_FILES
from tpu_tlm.config import TokenizerConfig
from tpu_tlm.data.tokenizers.bpe import BpeTokenizer, parse_vocab
from tpu_tlm.data.tokenizers.bpe_backends import (
    END,
    fastbpe_engine,
    irregular_tokens,
    merge_word,
    parse_codes,
    tokenizers_engine,
)
from tpu_tlm.data.tokenizers.factory import make_tokenizer
from tpu_tlm.errors import UsageError

FILES = DATA_FILES / "tokenizers"
CODES, VOCAB = (FILES / "codes").read_bytes(), (FILES / "vocab").read_bytes()
GOLDEN: dict[str, str] = json.loads((FILES / "golden.json").read_text())["bpe"]
HAS_FASTBPE = importlib.util.find_spec("fastBPE") is not None
ENGINES = [
    "tokenizers",
    pytest.param(
        "fastbpe", marks=pytest.mark.skipif(not HAS_FASTBPE, reason="fastBPE is not installed")
    ),
]
needs_fastbpe = pytest.mark.skipif(not HAS_FASTBPE, reason="fastBPE is not installed")


def pieces(tokenizer: BpeTokenizer, text: str) -> list[str]:
    return [tokenizer.tokens[i] for i in tokenizer.encode_lines([text.encode()]).ids]


@pytest.mark.parametrize("engine", ENGINES)
def test_ids_are_meads(engine: str) -> None:
    tokenizer = BpeTokenizer(CODES, VOCAB, engine=engine)
    listed = [line.split(" ")[0] for line in VOCAB.decode().split("\n")[:-1]]
    assert tokenizer.tokens == ["<PAD>", "<GO>", "<EOS>", "<UNK>", "[CLS]", "[MASK]", *listed]
    assert (
        tokenizer.pad_id,
        tokenizer.sep_id,
        tokenizer.unk_id,
        tokenizer.cls_id,
        tokenizer.mask_id,
    ) == (0, 2, 3, 4, 5)
    assert tokenizer.special_ids == (0, 1, 2, 3, 4, 5)
    encoded = tokenizer.encode_lines(
        [b"<unk> <eos> [MASK] <GO> the", b"", "\u3000the\u00a0of \u2028".encode()]
    )
    the, of = tokenizer.id_of("the"), tokenizer.id_of("of")
    assert encoded.ids.tolist() == [3, 2, 5, 1, the, the, of] and encoded.offsets.tolist() == [
        0,
        5,
        5,
        7,
    ]
    assert (
        encoded.ids.dtype == np.uint32
        and encoded.word_start.dtype == np.bool_
        and encoded.offsets.dtype == np.int64
    )


def test_extra_tokens_that_the_vocab_has_keep_their_line() -> None:
    vocab = VOCAB.replace(b"\n", b"\n[MASK] 7\n", 1)
    tokenizer = BpeTokenizer(CODES, vocab, extra_tokens=["[CLS]", "[MASK]", "<T>"])
    assert tokenizer.tokens[:6] == ["<PAD>", "<GO>", "<EOS>", "<UNK>", "[CLS]", "<T>"]
    assert tokenizer.mask_id == 7 and tokenizer.special_ids == (0, 1, 2, 3, 4, 5, 7)
    with pytest.raises(UsageError, match=r"no \[MASK\]: add it"):
        _ = BpeTokenizer(CODES, VOCAB, extra_tokens=["[CLS]"]).mask_id


@pytest.mark.parametrize("engine", ENGINES)
def test_pieces_are_fastbpes(engine: str) -> None:
    words = list(GOLDEN)
    assert (
        dict(zip(words, BpeTokenizer(CODES, VOCAB, engine=engine).pieces(words), strict=True))
        == GOLDEN
    )


def test_pieces_become_ids_and_word_starts() -> None:
    tokenizer = BpeTokenizer(CODES, VOCAB)
    words = [word for word in GOLDEN if word not in ("<unk>", "<eos>")]
    encoded = tokenizer.encode_lines([" ".join(words).encode()])
    expected = [piece for word in words for piece in GOLDEN[word].split(" ")]
    assert encoded.ids.tolist() == [tokenizer.id_of(piece) or 3 for piece in expected]
    assert encoded.word_start.tolist() == [
        i == 0 for word in words for i in range(len(GOLDEN[word].split(" ")))
    ]


def random_words(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    known = list(GOLDEN)
    letters = "abcdeéñßж中文한👍\u0301\u200d0123456789.,-'\"@</w>[]_#$\x00\x01İ"

    def word() -> str:
        kind = draw.random()
        if kind < 0.4:
            return "".join(draw.choice(letters) for _ in range(draw.randint(1, 30)))
        if kind < 0.5:
            return draw.choice("ab0") * draw.randint(1, 130)
        if kind < 0.6:
            return draw.choice(["</w>", "@@", "a@@", "x</w>y", "</w", "\0", "a\0b", "\0\0a", "é\0"])
        return draw.choice(known) + (draw.choice(known) if kind < 0.8 else "")

    return [word() for _ in range(count)]


@needs_fastbpe
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_engines_agree_on_hard_words(share: float) -> None:
    draw = random.Random(1)
    lines = [line for line in VOCAB.decode().split("\n")[:-1] if draw.random() < share]
    vocab = "".join(f"{line}\n" for line in lines).encode()
    codes = parse_codes(CODES.decode().split("\n")[:-1], "codes")
    words = random_words(4000, 2)
    listed = set(parse_vocab(vocab, "vocab"))
    expected = fastbpe_engine(CODES, vocab)(words)
    assert tokenizers_engine(codes, listed)(words) == expected
    assert [merge_word(word, codes, listed) for word in words] == expected


@needs_fastbpe
@pytest.mark.parametrize("seed", range(6))
def test_engines_agree_on_codes_in_any_order(seed: int) -> None:
    draw = random.Random(seed)
    units, pairs = ["a", "b", "a" + END, "b" + END], []
    for _ in range(60):
        left, right = (
            draw.choice([unit for unit in units if not unit.endswith(END)]),
            draw.choice(units),
        )
        if (left, right) not in pairs:
            pairs.append((left, right))
            units.append(left + right)
    if seed % 2:
        draw.shuffle(pairs)
    lines = [f"{left} {right} 1" for left, right in pairs]
    listed = [
        unit.removesuffix(END) + ("" if unit.endswith(END) else "@@")
        for unit in dict.fromkeys(units)
        if draw.random() < 0.7
    ]
    codes = parse_codes(lines, "codes")
    assert bool(irregular_tokens(codes)) or not seed % 2
    words = ["".join(draw.choice("abc") for _ in range(draw.randint(1, 25))) for _ in range(1000)]
    expected = fastbpe_engine(
        "\n".join(lines).encode() + b"\n", "".join(f"{t} 1\n" for t in listed).encode()
    )(words)
    assert tokenizers_engine(codes, set(listed))(words) == expected


def test_a_very_long_word_takes_time_in_proportion() -> None:
    tokenizer = BpeTokenizer(CODES, VOCAB)
    word = "".join(word for word in GOLDEN if word.isascii() and word.isalpha())
    word = (word * (300_000 // len(word) + 1))[:300_000]
    started = time.process_time()
    encoded = tokenizer.encode_lines([word.encode()])
    assert (
        time.process_time() - started < 5
        and encoded.word_start.sum() == 1
        and len(encoded.ids) > 50_000
    )
    short = word[:400]
    codes = parse_codes(CODES.decode().split("\n")[:-1], "codes")
    assert pieces(tokenizer, short) == merge_word(short, codes, set(tokenizer.tokens)).split(" ")


def test_uncased_lowers_words_but_not_special_ones() -> None:
    tokenizer = BpeTokenizer(CODES, VOCAB, cased=False)
    assert pieces(tokenizer, "THE [MASK] Of <EOS> [mask]")[:4] == ["the", "[MASK]", "of", "<EOS>"]
    assert pieces(BpeTokenizer(CODES, VOCAB), "THE") != ["the"]


def test_encode_finds_special_tokens_inside_words_and_decode_joins() -> None:
    tokenizer = BpeTokenizer(CODES, VOCAB)
    ids = tokenizer.encode("The measures[MASK].<EOS> of unforeseeable\npeace")
    assert ids.count(5) == 1 and ids.count(2) == 1 and 3 not in ids
    assert tokenizer.decode(ids) == "The measures [MASK] . <EOS> of unforeseeable peace"
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""
    assert tokenizer.encode("half \ud800 pair")[-1] == tokenizer.encode("pair")[-1]


def test_a_full_word_table_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [word for word in GOLDEN if word.isprintable()]
    whole, small = BpeTokenizer(CODES, VOCAB), BpeTokenizer(CODES, VOCAB)
    small._table._largest = 50
    draw = random.Random(0)
    for _ in range(20):
        lines = [" ".join(draw.choices(words, k=draw.randint(0, 30))).encode() for _ in range(10)]
        a, b = whole.encode_lines(lines), small.encode_lines(lines)
        assert (
            np.array_equal(a.ids, b.ids)
            and np.array_equal(a.word_start, b.word_start)
            and np.array_equal(a.offsets, b.offsets)
        )
    assert small._table._known < 50 + 300


@pytest.mark.parametrize(
    "codes, vocab, message",
    [
        (b"t h 5\nx y\n", VOCAB, r"codes:2: is not 'left right count'"),
        (b"#version: 0.1\nt h\n", VOCAB, r"codes:1: .*0\.2"),
        (b"#version: 0.2\nt h\nx\n", VOCAB, r"codes:3: is not 'left right'"),
        (b"t h 5\nt h 4\n", VOCAB, r"codes:2: merge 't' 'h'"),
        (b"", VOCAB, r"codes: is empty"),
        (CODES, b"the 5\nof\n", r"vocab:2: is not 'token count'"),
        (CODES, b"the 5\nof 3000000000\n", r"vocab:2"),
        (CODES, b"the 5\nof 3\nthe 2\n", r"vocab:3: token 'the' stands in line 1"),
        (CODES, b"", r"vocab: is empty"),
        (CODES, b"the 5\n\xff 3\n", r"vocab:2: is not UTF-8"),
    ],
)
def test_malformed_files_are_named_with_their_line(
    tmp_path: Path, codes: bytes, vocab: bytes, message: str
) -> None:
    (tmp_path / "codes").write_bytes(codes)
    (tmp_path / "vocab").write_bytes(vocab)
    with pytest.raises(UsageError, match=message):
        make_tokenizer(
            TokenizerConfig(codes=str(tmp_path / "codes"), vocab=str(tmp_path / "vocab"))
        )


def test_missing_files_and_options_are_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")
    for config, message in (
        (TokenizerConfig(), "--vocab is required"),
        (TokenizerConfig(vocab=str(FILES / "vocab")), "--codes is required"),
        (TokenizerConfig(codes=missing, vocab=str(FILES / "vocab")), "nothing: No such file"),
        (TokenizerConfig(subword_type="wordpiece", vocab=missing), "nothing: No such file"),
    ):
        with pytest.raises(UsageError, match=message):
            make_tokenizer(config)


@pytest.mark.parametrize("engine", ["fastbpe", "tokenizers"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_codes_of_subword_nmt_give_its_pieces(engine: str, mark: bytes) -> None:
    """`subword_nmt.json`: codes, vocabulary and pieces that subword-nmt 0.3.8 made."""
    golden = json.loads((FILES / "subword_nmt.json").read_text())
    codes, vocab = (mark + golden[name].encode() for name in ("codes", "vocab"))
    tokenizer = BpeTokenizer(codes, vocab, engine=engine)
    for line, expected in golden["lines"]:
        assert " ".join(tokenizer.pieces(line.split())) == expected.strip()


@pytest.mark.parametrize("engine", ["fastbpe", "tokenizers"])
def test_merges_that_build_on_each_other_a_thousand_times(engine: str) -> None:
    merges = [("a" * (length - 1), "a") for length in range(2, 1_502)]
    codes = "".join(f"{left} {right} 1\n" for left, right in merges).encode()
    tokenizer = BpeTokenizer(codes, b"a@@ 1\nb 1\n", engine=engine)
    ids = tokenizer.encode("a" * 1_400 + "b")
    assert tokenizer.decode(ids) == "a" * 1_400 + "b" and len(ids) == 1_401
