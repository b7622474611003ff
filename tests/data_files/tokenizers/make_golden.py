"""Write golden.json: the tokens of fastBPE and transformers' BertTokenizer for hard.json.

Run by hand in this directory (fastBPE 0.1.0, transformers 5.23.0 made the file here). `codes` and
`vocab` are fastBPE's own (`learnbpe 600`, `getvocab`) from speech.txt (State of the Union, 1790 and
1796, public domain) and most of hard.json. `vocab.txt` is that of `python -m tpu_tlm.vocab
--subword_type wordpiece --vocab_size 900 --min_frequency 1` from the same text.
"""

from __future__ import annotations

import json

from fastBPE import fastBPE
from transformers import BertTokenizer

if __name__ == "__main__":
    with open("hard.json", encoding="utf-8") as stream:
        lines = json.load(stream)
    with open("speech.txt", encoding="utf-8") as stream:
        words = sorted({word for line in [*lines, *stream] for word in line.split()})
    golden = {"bpe": dict(zip(words, fastBPE("codes", "vocab").apply(words), strict=True))}
    for name, lower in (("cased", False), ("uncased", True)):
        tokenizer = BertTokenizer(vocab="vocab.txt", do_lower_case=lower)
        golden[name] = [tokenizer(line, add_special_tokens=False)["input_ids"] for line in lines]
    with open("golden.json", "w", encoding="utf-8") as stream:
        json.dump(golden, stream, indent=0)
