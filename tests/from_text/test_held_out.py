"""Masked sentences: from held-out documents only, one word of the text replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

import tpu_tlm as tlm
from tpu_tlm.config import CorpusConfig, PreprocessConfig
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.data.dataset.stream import in_order
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.from_text.held_out import held_out_documents, masked_sentences

_GERMAN = "Über die alte Brücke geht Nummer {n} der Straße nach Süden weiter."
_CHINESE = "第{n}号新年讲话由中央人民广播电台向全国各族人民播出。"


def _words(number: int, digits: str) -> str:
    return "".join(digits[int(digit)] for digit in str(number))


@pytest.mark.parametrize(
    ("line", "digits", "longest_word"),
    [(_GERMAN, "abcdefghij", 20), (_CHINESE, "〇一二三四五六七八九", 1)],
)
def test_sentences_of_the_valid_split(
    tmp_path: Path, line: str, digits: str, longest_word: int
) -> None:
    lines = [line.format(n=_words(i, digits)) for i in range(100, 300)]
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    source, vocab, data = (str(tmp_path / name) for name in ("text.txt", "vocab", "data"))
    kind = {"subword_type": "wordpiece", "vocab_size": 400, "min_frequency": 1, "workers": 1}
    tlm.learn_tokenizer(source, vocab, **kind)
    options = {"seq_length": 32, "valid_fraction": 0.2, "document": "line", "workers": 1}
    tlm.preprocess(source, data, vocab=vocab, packing="documents", **options)
    corpus = CorpusConfig(input_files=[source], document="line")
    config = PreprocessConfig(output=data, valid_fraction=0.2, seq_length=32)
    documents = list(held_out_documents(corpus, config))
    assert 20 <= len(documents) <= 60 and set(documents) < set(lines)
    tokenizer = load_tokenizer(vocab)
    stored = {
        tokenizer.decode(int(i) for i in row if i != tokenizer.pad_id)
        for batch in in_order(open_dataset(f"{data}/valid"), 8)
        for row in batch["x"].numpy()
    }
    assert {tokenizer.decode(tokenizer.encode(d)) for d in documents} == {
        text.removesuffix("[SEP]").strip() for text in stored
    }

    found = masked_sentences(iter(documents), tokenizer, 5, 30)
    assert len(found) == 5 and len({one.text for one in found}) == 5
    for one in found:
        assert one.text.count("[MASK]") == 1 and len(one.word) <= longest_word
        assert one.text.replace("[MASK]", one.word) in documents
        assert one.text.isascii() is False, "accents and case are kept"
    assert found == masked_sentences(iter(documents), tokenizer, 5, 30)
