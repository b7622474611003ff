"""Vocabulary learning: fastBPE's merges and counts, BERT's layout, the same bytes every time."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.paths import DATA_FILES, ROOT
from tpu_tlm.config import CorpusConfig, TokenizerConfig
from tpu_tlm.data.corpus.inputs import expand_inputs, plan_parts
from tpu_tlm.data.tokenizers import learn as learning
from tpu_tlm.data.tokenizers import trainers
from tpu_tlm.data.tokenizers.bpe import BpeTokenizer
from tpu_tlm.data.tokenizers.bpe_backends import parse_codes
from tpu_tlm.data.tokenizers.factory import load_tokenizer, make_tokenizer
from tpu_tlm.data.tokenizers.learn_hf import normalized
from tpu_tlm.data.tokenizers.learn_options import LearnOptions
from tpu_tlm.data.tokenizers.word_counts import CountTask, WordCounts, count_words, heaviest
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.vocab import main

FILES = DATA_FILES / "tokenizers"
SPEECH = FILES / "speech.txt"


def learn(
    kind: str, words: Counter[str], vocab_size: int, min_frequency: int, cased: bool
) -> learning.Learned:
    bert_uncased = kind == "wordpiece" and not cased
    options = LearnOptions(kind, vocab_size, min_frequency, not cased, bert_uncased)
    return learning.learn(options, words, Counter())


def speech_words() -> Counter[str]:
    return Counter(SPEECH.read_text().split())


def bert_words() -> Counter[str]:
    return Counter(re.findall(r"\w+|[^\w\s]", SPEECH.read_text()))


def codes_of(tokenizer: object) -> list[list[str]]:
    return [line.split(" ") for line in tokenizer._contents["codes"].decode().split("\n")[:-1]]  # type: ignore[attr-defined]


def vocab_of(tokenizer: object) -> list[tuple[str, int]]:
    rows = [line.split(" ") for line in tokenizer._contents["vocab"].decode().split("\n")[:-1]]  # type: ignore[attr-defined]
    return [(piece, int(count)) for piece, count in rows if count != "0"]


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


def test_rare_letters_only_are_refused() -> None:
    with pytest.raises(UsageError, match="no letter occurs 2 times.*--min_frequency"):
        learn("wordpiece", Counter({"the": 1}), 30, 2, True)


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(UsageError, match="--output .*out: is a file"):
        main(["--input_files", str(SPEECH), "--output", str(tmp_path / "out")])


def test_words_are_cut_where_no_merge_reaches() -> None:
    words = Counter({"abcd": 3, "cdx": 1, "y": 9})
    assert trainers.cut_at_rare_pairs(words, 2, 100) == Counter({"abcd": 3, "cd": 1})
    # Of equally frequent pairs those with the lower ids are kept.
    many = Counter({chr(0x4E00 + i) + chr(0x5E00 + i): 5 for i in range(2000)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers, "MOST_PAIRS", 300)
        kept = trainers.cut_at_rare_pairs(many, 2, 50)
    assert sorted(kept) == sorted(many)[:300]


@pytest.mark.parametrize(
    "affix", [{}, {"end_of_word_suffix": "</w>"}, {"continuing_subword_prefix": "##"}]
)
def test_cutting_changes_no_merge(affix: dict[str, str]) -> None:
    """The merges of the library's own trainer over whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers import trainers as library

    words = speech_words() + Counter({"zq": 1, "qz\u6771\u4eac": 1})
    prefix, suffix = affix.get("continuing_subword_prefix", ""), affix.get("end_of_word_suffix", "")
    spelled = [
        [w[0], *(prefix + c for c in w[1:-1]), prefix * (len(w) > 1) + w[-1] * (len(w) > 1)]
        for w in words
    ]
    units = sorted({u for s in spelled for u in (*s, s[-1] + suffix, s[0] + suffix) if u})
    pipeline = Tokenizer(models.BPE(**affix))
    pipeline.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(" ")
    trainer = library.BpeTrainer(
        vocab_size=len(units) + 400,
        min_frequency=2,
        special_tokens=units,
        show_progress=False,
        **affix,
    )
    pipeline.train_from_iterator([" ".join([w] * n) for w, n in sorted(words.items())], trainer)
    merges = json.loads(pipeline.to_str())["model"]["merges"]
    expected = [tuple(m.split(" ") if isinstance(m, str) else m) for m in merges]
    found = trainers.train_bpe(words, units, len(units) + 400, 2, **affix)
    assert found[: len(expected) - 5] == expected[: len(expected) - 5]


def test_counts_beyond_what_fastbpe_reads_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers, "LARGEST_FEED", 1000)
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
    monkeypatch.setattr(trainers, "LARGEST_FEED", speech_words().total())
    scaled = learn(kind, words, 200, 1000, True)
    assert scaled.tokenizer.fingerprint() == exact.tokenizer.fingerprint()


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_merges_are_learned_from_the_most_frequent_words(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(trainers, "MOST_LEARNED", 2)
    words = Counter({"aaxaa": 9000, "bbxbb": 8000, "zqzq": 7})
    learned = learn(kind, words, 40, 2, True)
    assert not any("zq" in token.replace("#", "") for token in learned.tokenizer.tokens)
    assert any("bbx" in token.replace("#", "") for token in learned.tokenizer.tokens)
    assert learned.pieces == 9000 + 8000 + 7 * 4 and learned.unknown == 0


def test_wordpiece_has_berts_layout_and_covers_its_text() -> None:
    words = Counter("the The naïve . , 中 文 ab ab abc abcd".split()) + bert_words()
    learned = learn("wordpiece", words, 400, 1, True)
    tokens = learned.tokenizer.tokens
    assert (
        tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        and len(tokens) == len(set(tokens)) == 400
    )
    assert learned.unknown == 0 and not learned.notes
    assert {"the", "of", "中", "ï", "##ï"} & set(tokens) == {"the", "of", "中", "##ï"}


def test_wordpiece_leaves_half_its_room_for_longer_pieces() -> None:
    words = Counter({chr(0x4E00 + i): 3 for i in range(900)}) + bert_words()
    learned = learn("wordpiece", words, 205, 2, True)
    letters = [
        token for token in learned.tokenizer.tokens[5:] if len(token.removeprefix("##")) == 1
    ]
    assert len(letters) == 100 and len(learned.tokenizer.tokens) == 205
    assert learned.unknown >= 800 and "rare letters" in learned.notes[0]
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
    assert one.words == many.words
    options = LearnOptions(kind, 100, 2, not cased, kind == "wordpiece" and not cased)
    one.words, many.words = normalized(options, one.words), normalized(options, many.words)
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


def test_a_full_table_drops_light_words_and_counts_them() -> None:
    counts = WordCounts(Counter({f"w{i:03}": i for i in range(1, 101)}))
    counts.prune(100)
    assert len(counts.words) == 100 and counts.dropped == 0
    counts.prune(60)
    assert len(counts.words) == 30 and min(counts.words.values()) > 1
    gone = sum(range(1, 101)) - counts.words.total()
    assert counts.dropped == 4 * gone and counts.letters["w"] == gone


def test_words_that_occur_once_stay_in_proportion_whatever_their_script() -> None:
    latin = Counter({f"{i:x}k": 1 for i in range(20_000)})
    chinese = Counter({chr(0x4E00 + i % 3000) + chr(0x5E00 + i // 3000): 1 for i in range(6000)})
    kept = heaviest(latin + chinese, 4000, 10**9)
    share = sum(word[0] >= "\u4e00" for word in kept) / len(kept)
    assert len(kept) == 4000 and 0.05 < share < 0.25
    assert kept == heaviest(Counter(dict(reversed((latin + chinese).items()))), 4000, 10**9)
    smaller = heaviest(latin + chinese, 1000, 10**9)
    assert set(smaller) <= set(kept)
    assert len(heaviest(latin, 10**9, 1000)) < 250


def test_text_without_spaces_is_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line is different: a table that kept the frequent ones would be empty."""
    lines = [
        chr(0x4E00 + a) + chr(0x5000 + b) + chr(0x6000 + c)
        for a in range(16)
        for b in range(16)
        for c in range(16)
    ]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    monkeypatch.setattr("tpu_tlm.data.tokenizers.word_counts._LARGEST_PART_TABLE", 1000)
    for kind in ("wordpiece", "bpe", "unigram", "byte-bpe"):
        output = tmp_path / kind
        given = ["--subword_type", kind, "--vocab_size", "400", "--output", str(output)]
        assert main(["--input_files", str(tmp_path / "a.txt"), *given]) == 0
        tokenizer = load_tokenizer(str(output))
        ids = tokenizer.encode_lines([line.encode() for line in lines]).ids
        assert tokenizer.unk_id not in ids, kind
        if kind == "wordpiece":
            assert sum("\u4e00" <= t[0] <= "\u9fff" for t in tokenizer.tokens) == 48


def test_hapaxes_of_one_script_do_not_drive_out_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(0)
    pairs = ["你好", "谢谢", "再见", "北京", "朋友", "学生"]
    chinese = "".join("".join(draw.choice(pairs) for _ in range(12)) + "\n" for _ in range(300))
    latin = "".join(f"{i:x}k" + (" " if i % 10 else "\n") for i in range(5200))
    (tmp_path / "a.txt").write_text(chinese + latin)
    monkeypatch.setattr(trainers, "MOST_LEARNED", 5000)
    given = ["--vocab_size", "100", "--output", str(tmp_path / "out")]
    assert main(["--input_files", str(tmp_path / "a.txt"), *given]) == 0
    codes = (tmp_path / "out" / "codes").read_text().split("\n")
    assert codes[0].startswith("谢 谢 ") and sum(line[:1] >= "\u4e00" for line in codes) > 20


@pytest.mark.long
def test_a_large_mixed_text_keeps_its_script(tmp_path: Path) -> None:
    """30,000 Chinese lines before 520,000 Latin words that occur once: fastBPE learns 39 merges."""
    draw = random.Random(0)
    pairs = ["你好", "谢谢", "再见", "北京", "朋友", "学生"]
    with (tmp_path / "mixed.txt").open("w", encoding="utf-8") as out:
        for _ in range(30000):
            out.write("".join(draw.choice(pairs) for _ in range(12)) + "\n")
        out.writelines(f"{i:x}k" + (" " if i % 10 else "\n") for i in range(520000))
    given = ["--subword_type", "bpe", "--vocab_size", "300", "--output", str(tmp_path / "out")]
    assert main(["--input_files", str(tmp_path / "mixed.txt"), *given]) == 0
    codes = (tmp_path / "out" / "codes").read_text().split("\n")
    assert codes[0].startswith("谢 谢 ")
    assert sum(any("\u4e00" <= c <= "\u9fff" for c in line) for line in codes) == 39


def test_every_character_of_two_million_lines_is_known(tmp_path: Path) -> None:
    """Lines of three characters, every one different: 384 characters in all."""
    with (tmp_path / "lines.txt").open("w", encoding="utf-8") as out:
        for a in range(0x4E00, 0x4E80):
            for b in range(0x5000, 0x5080):
                out.writelines(f"{chr(a)}{chr(b)}{chr(c)}\n" for c in range(0x6000, 0x6080))
    given = ["--vocab_size", "1000", "--output", str(tmp_path / "out")]
    given += ["--subword_type", "wordpiece", "--input_files", str(tmp_path / "lines.txt")]
    assert main(given) == 0
    tokens = (tmp_path / "out" / "vocab.txt").read_text().split("\n")
    assert sum("\u4e00" <= token <= "\u9fff" and len(token) == 1 for token in tokens) == 384


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


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "byte-bpe", "unigram"])
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
    own = {"bpe": ["codes", "vocab"], "wordpiece": ["vocab.txt"]}.get(kind, [])
    shared = ["tokenizer.json", "tokenizer_config.json", "tokenizer_info.json"]
    assert sorted(outputs[0]) == sorted([*own, *shared])
    tokenizer = load_tokenizer(str(tmp_path / "1"))
    assert (
        tokenizer.kind == (kind if own else "hf")
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
    flags.append("--overwrite")
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


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "byte-bpe", "unigram"])
def test_transformers_reads_what_is_learned(tmp_path: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    given = ["--subword_type", kind, "--vocab_size", "600", "--output", str(tmp_path)]
    assert main(["--input_files", str(SPEECH), *given]) == 0
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    lines = [line for line in SPEECH.read_text().split("\n") if line.strip()][:20]
    for ours in (
        load_tokenizer(str(tmp_path)),
        make_tokenizer(TokenizerConfig(vocab=str(tmp_path))),
    ):
        for line in lines:
            assert theirs(line, add_special_tokens=False)["input_ids"] == ours.encode(line)


def test_normalization_and_special_tokens(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("Café CAFE\u0301 ﬁn ﬁn café fin naïve naïve\n" * 9)
    for kind in ("wordpiece", "byte-bpe", "unigram"):
        output = tmp_path / kind
        given = ["--subword_type", kind, "--vocab_size", "400", "--output", str(output)]
        given += ["--normalization", "nfkc", "--lower_case", "--strip_accents", "false"]
        given += ["--special_tokens", "<EOU>", "<x>", "--reserve", "3"]
        assert main(["--input_files", str(text), *given]) == 0
        tokenizer = load_tokenizer(str(output))
        assert tokenizer.tokens[5:10] == ["<EOU>", "<x>", "[unused0]", "[unused1]", "[unused2]"]
        assert tokenizer.encode("ﬁn CAFE\u0301") == tokenizer.encode("fin café")
        assert tokenizer.encode("cafe") != tokenizer.encode("café")
        assert {5, 6} <= set(tokenizer.special_ids)
        assert tokenizer.encode("<EOU>")[-1] == 5 or kind == "unigram"


def test_a_vocabulary_is_not_overwritten_unasked(tmp_path: Path) -> None:
    flags = ["--input_files", str(SPEECH), "--output", str(tmp_path), "--vocab_size", "300"]
    assert main(flags) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="holds a tokenizer already.*--overwrite"):
        main([*flags, "--subword_type", "wordpiece"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert main([*flags, "--subword_type", "wordpiece", "--overwrite"]) == 0
    assert not {"codes", "vocab"} & {path.name for path in tmp_path.iterdir()}


def test_a_full_disk_leaves_no_part_of_a_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tpu_tlm import filesystem

    write, flags = filesystem.write_bytes, ["--input_files", str(SPEECH), "--vocab_size", "300"]

    def full(path: str, data: bytes) -> None:
        if path.endswith("/vocab"):
            raise TlmError(f"{path}: No space left on device")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "write_bytes", full)
        with pytest.raises(TlmError, match="/vocab: No space"):
            main([*flags, "--output", str(tmp_path)])
    assert not list(tmp_path.iterdir())
    assert main([*flags, "--output", str(tmp_path)]) == 0


def test_options_that_a_kind_does_not_use_are_refused(tmp_path: Path) -> None:
    flags = ["--input_files", str(SPEECH), "--output", str(tmp_path)]
    for more in (["--normalization", "nfc"], ["--strip_accents"], ["--reserve", "3"]):
        with pytest.raises(UsageError, match=more[0]):
            main([*flags, *more])
    with pytest.raises(UsageError, match="--vocab_size"):
        main([*flags, "--subword_type", "byte-bpe", "--vocab_size", "200"])
    for kind, token in (("wordpiece", "##e"), ("byte-bpe", "é"), ("bpe", "x</w>"), ("bpe", "x@@")):
        with pytest.raises(UsageError, match=f"--special_tokens '{token}': is"):
            main([*flags, "--subword_type", kind, "--special_tokens", token])


def test_words_that_are_all_too_long_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 1200 + " " + "y" * 1200)
    for kind, limit in (("bpe", "1000 characters"), ("wordpiece", "100 characters")):
        given = ["--output", str(tmp_path / kind), "--subword_type", kind]
        with pytest.raises(UsageError, match=limit):
            main(["--input_files", str(tmp_path / "a.txt"), *given])
