"""WordPiece: equality with transformers' BertTokenizer, word starts, special tokens, errors."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from tests.paths import DATA_FILES
from tpu_tlm.data.tokenizers.wordpiece import SPECIALS, WordPieceTokenizer
from tpu_tlm.errors import UsageError

FILES = DATA_FILES / "tokenizers"
VOCAB = (FILES / "vocab.txt").read_bytes()
HARD: list[str] = json.loads((FILES / "hard.json").read_text())
GOLDEN = json.loads((FILES / "golden.json").read_text())


def split(tokenizer: WordPieceTokenizer, text: str) -> list[str]:
    return [tokenizer.tokens[i] for i in tokenizer.encode_lines([text.encode()]).ids]


def test_ids_are_line_numbers() -> None:
    tokenizer = WordPieceTokenizer(VOCAB)
    assert tokenizer.tokens == VOCAB.decode().split("\n")[:-1]
    ids = (
        tokenizer.pad_id,
        tokenizer.unk_id,
        tokenizer.cls_id,
        tokenizer.sep_id,
        tokenizer.mask_id,
    )
    assert ids == tuple(tokenizer.tokens.index(token) for token in SPECIALS) and ids[0] == 0
    assert tokenizer.special_ids == tuple(sorted(ids))


@pytest.mark.parametrize("case", ["cased", "uncased"])
def test_hard_text_gives_what_transformers_gives(case: str) -> None:
    tokenizer = WordPieceTokenizer(VOCAB, cased=case == "cased")
    lines = [line.encode() for line in HARD]
    for encoded_lines in (lines, lines * 2, lines[::-1]):  # whatever the word table holds by then
        encoded = tokenizer.encode_lines(encoded_lines)
        found = [
            encoded.ids[a:b].tolist()
            for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)
        ]
        assert dict(zip(encoded_lines, found, strict=True)) == dict(
            zip(lines, GOLDEN[case], strict=True)
        )


@pytest.mark.parametrize("case", ["cased", "uncased"])
def test_random_text_gives_what_transformers_gives(case: str) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.BertTokenizer(
        vocab=str(FILES / "vocab.txt"), do_lower_case=case == "uncased"
    )
    tokenizer = WordPieceTokenizer(VOCAB, cased=case == "cased")
    draw = random.Random(case)
    ranges = [
        (0x20, 0x7E),
        (0xA0, 0x24F),
        (0x250, 0x2FFF),
        (0x3000, 0xD7FF),
        (0xE000, 0xFFFF),
        (0x10000, 0x10FFFF),
        (0, 0x1F),
    ]

    def some() -> str:
        kind = draw.random()
        if kind < 0.3:
            return draw.choice(draw.choice(HARD[:-2]).split() or ["x"])
        if kind < 0.5:
            return chr(draw.randint(*draw.choice(ranges)))
        return draw.choice([" ", " ", "the", "Senate", "nation", ".", ",", "-"])

    texts = [
        "".join(some() for _ in range(draw.randint(1, 25))).replace("\n", " ") for _ in range(1500)
    ]
    encoded = tokenizer.encode_lines([text.encode() for text in texts])
    for index, text in enumerate(texts):
        expected = reference(text, add_special_tokens=False)["input_ids"]
        assert (
            encoded.ids[encoded.offsets[index] : encoded.offsets[index + 1]].tolist() == expected
        ), repr(text)


def test_lines_keep_to_themselves() -> None:
    encoded = WordPieceTokenizer(VOCAB).encode_lines(
        [b"the nation", b"", b" \t ", b"\x00\x1f", "the\u200b".encode(), b"of"]
    )
    assert encoded.offsets.tolist()[1:] == [encoded.offsets[1]] * 4 + [
        encoded.offsets[1] + 1,
        encoded.offsets[1] + 2,
    ]
    assert (
        encoded.ids.dtype == np.uint32
        and encoded.word_start.dtype == np.bool_
        and encoded.offsets.dtype == np.int64
    )


def test_word_starts_are_berts_words() -> None:
    tokenizer = WordPieceTokenizer(VOCAB, cased=False)
    text = "Representatives' \u4e2d\u6587 (fellow-citizens), \U0001f9ff!"
    encoded = tokenizer.encode_lines([text.encode()])
    words: list[str] = []
    for token, start in zip(
        (tokenizer.tokens[i] for i in encoded.ids), encoded.word_start, strict=True
    ):
        words = [*words, token] if start else [*words[:-1], words[-1] + token.removeprefix("##")]
    assert words == [
        "representatives",
        "'",
        "\u4e2d",
        "\u6587",
        "(",
        "fellow",
        "-",
        "citizens",
        ")",
        ",",
        "[UNK]",
        "!",
    ]


def test_special_tokens_are_plain_text_in_a_corpus_and_tokens_in_encode() -> None:
    tokenizer = WordPieceTokenizer(VOCAB)
    text = "the [MASK] of[SEP]the nation"
    assert not set(tokenizer.special_ids) - {tokenizer.unk_id} & set(
        tokenizer.encode_lines([text.encode()]).ids.tolist()
    )
    ids = tokenizer.encode(text)
    assert [tokenizer.tokens[i] for i in ids if i in tokenizer.special_ids] == ["[MASK]", "[SEP]"]
    assert tokenizer.decode(ids) == "the [MASK] of [SEP] the nation"


def test_words_over_a_hundred_characters_are_unknown() -> None:
    tokenizer = WordPieceTokenizer(VOCAB)
    assert split(tokenizer, "a" * 101) == ["[UNK]"] != split(tokenizer, "a" * 100)
    long = "b" * 101
    assert split(WordPieceTokenizer(VOCAB + long.encode() + b"\n"), long) == ["[UNK]"]


@pytest.mark.parametrize(
    "vocab, message",
    [
        (VOCAB.replace(b"\nthe\n", b"\n\n"), r"here/vocab.txt:\d+: an empty line"),
        (VOCAB + b"the\n", r"here/vocab.txt:901: token 'the' a second time"),
        (VOCAB.replace(b"[MASK]\n", b""), r"has no \[MASK\]"),
        (b"x\n" + VOCAB, r"vocab.txt:2: \[PAD\] must stand in the first line"),
        (VOCAB + b"\xff\n", r"vocab.txt:901: is not UTF-8"),
        (b"", r"has no \[PAD\]"),
        (VOCAB.replace(b"\n", b" \n"), r"vocab.txt:1: '\[PAD\] ': white space or a count"),
        (VOCAB.replace(b"\n", b"\t7\n"), r"vocab.txt:1: '\[PAD\]\\t7': white space or a count"),
        (VOCAB.replace(b"[MASK]", b"[MASK] "), r"a count .* token \[MASK\]"),
    ],
)
def test_malformed_vocabularies_are_named(vocab: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        WordPieceTokenizer(vocab, name="here/vocab.txt")


def test_windows_line_ends_are_read() -> None:
    assert (
        WordPieceTokenizer(VOCAB.replace(b"\n", b"\r\n")).tokens == WordPieceTokenizer(VOCAB).tokens
    )
