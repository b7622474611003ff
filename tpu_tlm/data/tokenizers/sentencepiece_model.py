"""A SentencePiece model file (`spiece.model`) as a `tokenizer.json` with the model's own ids."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tpu_tlm.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Pipeline

# Types of pieces and of models, by the numbers of sentencepiece_model.proto.
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6
_UNIGRAM, _BPE = 1, 2
_SPACE = "\u2581"


@dataclass(frozen=True)
class _Piece:
    text: str
    score: float
    type: int


@dataclass(frozen=True)
class _Model:
    pieces: tuple[_Piece, ...]
    type: int
    charsmap: bytes
    dummy_prefix: bool
    squeeze_spaces: bool
    byte_fallback: bool


def tokenizer_json(data: bytes, name: str) -> bytes:
    """A tokenizer.json that splits as the model does. Raises `UsageError` naming the file."""
    try:
        model = _parse(data)
    except (ValueError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: is no SentencePiece model ({error})") from None
    if model.type not in (_UNIGRAM, _BPE) or not model.pieces:
        raise UsageError(f"{name}: is no unigram or BPE model of SentencePiece")
    return str(_pipeline(model, name).to_str()).encode()


def _pipeline(model: _Model, name: str) -> Pipeline:
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Pipeline

    unknown = [i for i, piece in enumerate(model.pieces) if piece.type == _UNKNOWN]
    if len(unknown) != 1:
        raise UsageError(
            f"{name}: is no SentencePiece model (it has {len(unknown)} unknown pieces)"
        )
    vocab = [(piece.text, piece.score) for piece in model.pieces]
    if model.type == _UNIGRAM:
        engine: Any = models.Unigram(vocab, unknown[0], model.byte_fallback)
    else:
        engine = models.BPE(
            {piece.text: i for i, piece in enumerate(model.pieces)},
            _merges(model.pieces),
            unk_token=model.pieces[unknown[0]].text,
            fuse_unk=True,
            byte_fallback=model.byte_fallback,
        )
    pipeline = Pipeline(engine)
    steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.squeeze_spaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if steps:
        pipeline.normalizer = normalizers.Sequence(steps)
    scheme = "always" if model.dummy_prefix else "never"
    pipeline.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme=scheme)
    pipeline.decoder = decoders.Metaspace(_SPACE, prepend_scheme=scheme)
    special = [p.text for p in model.pieces if p.type in (_UNKNOWN, _CONTROL)]
    pipeline.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    defined = [p.text for p in model.pieces if p.type == _USER_DEFINED]
    pipeline.add_tokens([AddedToken(t, special=False, normalized=False) for t in defined])
    return pipeline


def _merges(pieces: tuple[_Piece, ...]) -> list[tuple[str, str]]:
    """The merges that make the pieces, the best piece first."""
    ids = {piece.text: i for i, piece in enumerate(pieces)}
    found = []
    for piece in pieces:
        text = piece.text
        splits = [(text[:at], text[at:]) for at in range(1, len(text))]
        pairs = [pair for pair in splits if pair[0] in ids and pair[1] in ids]
        pairs.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        found += [(piece.score, pair) for pair in pairs]
    found.sort(key=lambda item: item[0], reverse=True)
    return [pair for _, pair in found]


def _parse(data: bytes) -> _Model:
    pieces = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(data):
        if number == 1:
            piece = dict(_fields(value))
            score = struct.unpack("<f", piece.get(2, bytes(4)))[0]
            pieces.append(_Piece(piece.get(1, b"").decode(), score, piece.get(3, 1)))
        elif number == 2:
            trainer = dict(_fields(value))
        elif number == 3:
            normalizer = dict(_fields(value))
    return _Model(
        pieces=tuple(pieces),
        type=trainer.get(3, _UNIGRAM),
        charsmap=normalizer.get(2, b""),
        dummy_prefix=bool(normalizer.get(3, 1)),
        squeeze_spaces=bool(normalizer.get(4, 1)),
        byte_fallback=bool(trainer.get(35, 0)),
    )


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol-buffer message: numbers and values, in their order."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(data):
            raise ValueError("cut off")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("number too long")
