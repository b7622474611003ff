"""Vocabulary learning: fastBPE's merges and counts, BERT's layout, the same bytes every time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.paths import DATA_FILES, ROOT
from tpu_tlm.config import CorpusConfig
from tpu_tlm.data.corpus.documents import expand_inputs, plan_parts
from tpu_tlm.data.tokenizers import learn as learning
from tpu_tlm.data.tokenizers.bpe import BpeTokenizer
from tpu_tlm.data.tokenizers.bpe_backends import parse_codes
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.data.tokenizers.learn import learn
from tpu_tlm.data.tokenizers.word_counts import CountTask, WordCounts, count_words
from tpu_tlm.errors import UsageError
from tpu_tlm.vocab import main

FILES = DATA_FILES / "tokenizers"
SPEECH = FILES / "speech.txt"


def speech_words() -> Counter[str]:
    return Counter(SPEECH.read_text().split())


def codes_of(tokenizer: object) -> list[list[str]]:
    return [line.split(" ") for line in tokenizer._contents["codes"].decode().split("\n")[:-1]]  # type: ignore[attr-defined]


def vocab_of(tokenizer: object) -> list[tuple[str, int]]:
    rows = [line.split(" ") for line in tokenizer._contents["vocab"].decode().split("\n")[:-1]]  # type: ignore[attr-defined]
    return [(piece, int(count)) for piece, count in rows]


def test_merges_are_those_that_fastbpe_learns() -> None:
    hard = json.loads((FILES / "hard.json").read_text())
    words = speech_words() + Counter(
        w for line in hard[:19] for w in line.split() if "\0" not in w and len(w) < 60
    )
    ours = codes_of(learn("bpe", words, 600, 1, True).tokenizer)
    theirs = [line.split(" ") for line in (FILES / "codes").read_text().split("\n")[:-1]]
    assert len(ours) == len(theirs) == 600
    assert [row[:2] for row in ours[:20]] == [row[:2] for row in theirs[:20]]
    # Equally frequent pairs may come in another order, which leads to other merges further on.
    assert len({tuple(row[:2]) for row in theirs} & {tuple(row[:2]) for row in ours}) >= 570


def test_each_merge_is_of_the_most_frequent_pair() -> None:
    words = speech_words()
    codes = codes_of(learn("bpe", words, 150, 2, True).tokenizer)
    spelled = [([*word[:-1], word[-1] + "</w>"], count) for word, count in words.items()]
    for left, right, _ in codes:
        pairs: Counter[tuple[str, str]] = Counter()
        for units, count in spelled:
            for pair in zip(units, units[1:], strict=False):
                pairs[pair] += count
        assert pairs[left, right] == max(pairs.values())
        for units, _ in spelled:
            index = 0
            while index < len(units) - 1:
                if (units[index], units[index + 1]) == (left, right):
                    units[index : index + 2] = [left + right]
                index += 1


def test_counts_are_true() -> None:
    words = speech_words() + Counter({"aaaaaaa": 50, "baaa": 20})
    tokenizer = learn("bpe", words, 300, 2, True).tokenizer
    codes = codes_of(tokenizer)
    applied: Counter[tuple[str, str]] = Counter()
    pieces: Counter[str] = Counter()
    ranks = parse_codes([" ".join(row) for row in codes], "codes").ranks
    for word, count in words.items():
        units = [*word[:-1], word[-1] + "</w>"]
        while ranked := [
            (ranks[pair], pair) for pair in zip(units, units[1:], strict=False) if pair in ranks
        ]:
            left, right = min(ranked)[1]
            index = 0
            while index < len(units) - 1:
                if (units[index], units[index + 1]) == (left, right):
                    units[index : index + 2] = [left + right]
                    applied[left, right] += count
                index += 1
        for unit in units:
            pieces[unit.removesuffix("</w>") if unit.endswith("</w>") else unit + "@@"] += count
    assert {(left, right): int(count) for left, right, count in codes} == dict(applied)
    assert dict(vocab_of(tokenizer)) == dict(pieces)
    assert vocab_of(tokenizer) == sorted(pieces.items(), key=lambda item: (-item[1], item[0]))


def test_the_files_give_pieces_without_unknowns() -> None:
    learned = learn("bpe", speech_words(), 500, 2, True)
    encoded = learned.tokenizer.encode_lines(SPEECH.read_bytes().split(b"\n"))
    assert learned.tokenizer.unk_id not in encoded.ids and len(encoded.ids) == learned.pieces
    assert learned.whole < speech_words().total() < learned.pieces


def test_special_words_are_not_learned() -> None:
    learned = learn(
        "bpe",
        speech_words()
        + Counter({"<unk>": 500, "[MASK]": 500, "<EOS>": 500, "x</w>y": 9, "z" * 5000: 2}),
        200,
        2,
        True,
    )
    assert not any(
        "<" in piece or "[" in piece for piece, count in vocab_of(learned.tokenizer) if count > 9
    )
    assert not any("zz" in left + right for left, right, _ in codes_of(learned.tokenizer))
    assert learned.notes == [
        "2 words over 1000 characters or with </w> in them were not learned from"
    ]


def test_too_little_text_gives_fewer_merges_and_says_so() -> None:
    learned = learn("bpe", Counter({"abab": 3, "xy": 1}), 100, 2, True)
    assert [row[:2] for row in codes_of(learned.tokenizer)] == [
        ["a", "b"],
        ["a", "b</w>"],
        ["ab", "ab</w>"],
    ]
    assert "3 merges, not 100" in learned.notes[0]
    for words in (Counter[str](), Counter({"a": 5})):
        with pytest.raises(UsageError, match="no words|more text"):
            learn("bpe", words, 10, 2, True)


def test_counts_beyond_what_fastbpe_reads_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "LARGEST_FEED", 1000)
    learned = learn("bpe", Counter({"the": 5_000_000_000, "cat": 70_000_000}), 10, 1, True)
    assert vocab_of(learned.tokenizer) == [("the", 2**31 - 1), ("cat", 70_000_000)]
    assert [row[2] for row in codes_of(learned.tokenizer)[:2]] == ["5000000000"] * 2
    assert any("fastBPE can read" in note for note in learned.notes)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_large_corpora_are_scaled_for_learning_only(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    words = Counter({word: 1000 * count for word, count in speech_words().items()})
    exact = learn(kind, words, 200, 1000, True)
    monkeypatch.setattr(learning, "LARGEST_FEED", speech_words().total())
    scaled = learn(kind, words, 200, 1000, True)
    assert scaled.tokenizer.fingerprint() == exact.tokenizer.fingerprint()


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_merges_are_learned_from_the_most_frequent_words(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(learning, "MOST_LEARNED", 2)
    words = Counter({"aaxaa": 9, "bbxbb": 8, "zqzq": 7})
    learned = learn(kind, words, 40, 2, True)
    assert not any("zq" in token.replace("#", "") for token in learned.tokenizer.tokens)
    assert any("bbx" in token.replace("#", "") for token in learned.tokenizer.tokens)
    assert learned.pieces == 9 + 8 + 7 * 4 and learned.unknown == 0


def test_wordpiece_has_berts_layout_and_covers_its_text() -> None:
    words = Counter("the The naïve . , 中 文 ab ab abc abcd".split()) + speech_words()
    learned = learn("wordpiece", words, 400, 1, True)
    tokens = learned.tokenizer.tokens
    assert (
        tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        and len(tokens) == len(set(tokens)) == 400
    )
    assert learned.unknown == 0 and not learned.notes
    assert {"the", "of", "中", "ï", "##ï"} & set(tokens) == {"the", "of", "中", "##ï"}


def test_wordpiece_leaves_half_its_room_for_longer_pieces() -> None:
    words = Counter({chr(0x4E00 + i): 3 for i in range(900)}) + speech_words()
    learned = learn("wordpiece", words, 205, 2, True)
    letters = [
        token for token in learned.tokenizer.tokens[5:] if len(token.removeprefix("##")) == 1
    ]
    assert len(letters) == 100 and len(learned.tokenizer.tokens) == 205
    assert learned.unknown >= 800 and "rare letters are left out" in learned.notes[0]
    with pytest.raises(UsageError, match="--vocab_size: 9 leaves no room"):
        learn("wordpiece", words, 9, 2, True)


@pytest.mark.parametrize(
    "kind, cased", [("bpe", True), ("bpe", False), ("wordpiece", True), ("wordpiece", False)]
)
def test_any_number_of_processes_counts_the_same(tmp_path: Path, kind: str, cased: bool) -> None:
    (tmp_path / "b.txt").write_text(
        "Ångström DÉJÀ vu\u00a0naïve, 中文\x0cfeed x\x1fy " * 30 + "\nlast \ufffd Word"
    )
    inputs = expand_inputs(CorpusConfig(input_files=[str(SPEECH), str(tmp_path)]))
    task = CountTask(kind, cased, "text", False)
    one = count_words(plan_parts(inputs), task, 1)
    many = count_words(plan_parts(inputs, 3000), task, 2)
    assert one.words == many.words and one.lines == many.lines and one.documents == many.documents
    if kind == "bpe":
        words = SPEECH.read_text() if cased else SPEECH.read_text().lower()
        assert one.words["the"] == words.split().count("the")
        expected = (
            ["Ångström", "DÉJÀ", "naïve,", "中文"]
            if cased
            else ["ångström", "déjà", "naïve,", "中文"]
        )
    else:
        expected = ["Ångström", "naïve", "中", "xy"] if cased else ["angstrom", "naive", "中", "xy"]
    assert [one.words[word] for word in expected] == [30] * 4


def test_a_full_table_drops_the_rarest_words() -> None:
    counts = WordCounts(Counter({f"w{i}": i for i in range(1, 101)}))
    counts.prune(100)
    assert len(counts.words) == 100 and counts.pruned == 0
    counts.prune(60)
    assert sorted(counts.words.values()) == list(range(71, 101)) and (
        counts.pruned,
        counts.threshold,
    ) == (70, 70)


def run(output: Path, *flags: str, seed: str = "0") -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "tpu_tlm.vocab",
        "--input_files",
        str(SPEECH),
        "--output",
        str(output),
        *flags,
    ]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_the_command_writes_the_same_bytes_every_time(tmp_path: Path, kind: str) -> None:
    outputs = []
    for seed, workers in (("1", "1"), ("2", "2")):
        done = run(
            tmp_path / seed,
            "--subword_type",
            kind,
            "--vocab_size",
            "700",
            "--workers",
            workers,
            seed=seed,
        )
        assert done.returncode == 0, done.stderr
        assert "distinct" in done.stdout and "coverage" in done.stdout
        outputs.append({path.name: path.read_bytes() for path in (tmp_path / seed).iterdir()})
    assert outputs[0] == outputs[1]
    assert sorted(outputs[0]) == (
        ["codes", "tokenizer.json", "vocab"] if kind == "bpe" else ["tokenizer.json", "vocab.txt"]
    )
    tokenizer = load_tokenizer(str(tmp_path / "1"))
    assert (
        tokenizer.kind == kind
        and tokenizer.decode(tokenizer.encode("the United States")) == "the United States"
    )


def test_uncased_vocabularies_have_no_capitals(tmp_path: Path) -> None:
    for kind in ("bpe", "wordpiece"):
        flags = ["--subword_type", kind, "--cased", "false", "--vocab_size", "300"]
        assert main(["--input_files", str(SPEECH), "--output", str(tmp_path / kind), *flags]) == 0
        tokenizer = load_tokenizer(str(tmp_path / kind))
        assert not tokenizer.cased and all(
            t == t.lower() or i in tokenizer.special_ids for i, t in enumerate(tokenizer.tokens)
        )
        assert tokenizer.unk_id not in tokenizer.encode("The UNITED States")


def test_bad_input_is_summarized_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "a.txt"
    text.write_bytes(b"some words and some more words\nbad \xff byte\n")
    flags = ["--input_files", str(text), "--output", str(tmp_path / "out"), "--vocab_size", "5"]
    assert main(flags) == 0
    assert f"not UTF-8 (replaced): 1 ({text}:2)" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"a\.txt:2: .*--strict"):
        main([*flags, "--strict"])
    text.write_bytes(b"")
    with pytest.raises(UsageError, match="no words"):
        main(flags)
    with pytest.raises(UsageError, match="--vocab_size 0: must be at least 1"):
        main([*flags, "--vocab_size", "0"])


def test_learned_codes_are_read_by_the_other_engine() -> None:
    learned = learn("bpe", speech_words(), 400, 2, True).tokenizer
    contents = learned._contents
    other = BpeTokenizer(contents["codes"], contents["vocab"], engine="tokenizers")
    words = sorted(speech_words())
    assert isinstance(learned, BpeTokenizer) and learned.pieces(words) == other.pieces(words)
