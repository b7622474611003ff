"""The preprocess command on pairs: next turns, halves of documents, rows of columns."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.command_modules import preprocess
from tests.data.preprocessing.test_preprocess import (
    BPE,
    TOKENIZERS,
    WORDPIECE,
    documents,
    hashes,
    write_text,
)
from tpu_tlm.data.dataset.dataset import Dataset, open_dataset
from tpu_tlm.data.preprocessing import worker
from tpu_tlm.data.preprocessing.packing import Packing
from tpu_tlm.data.preprocessing.pairs import framed_texts
from tpu_tlm.errors import UsageError

EOU = ["--extra_tokens", "[CLS]", "[MASK]", "<EOU>"]


def run(
    source: Path,
    output: Path,
    *options: Any,
    tokenizer: Sequence[str] = (*BPE, *EOU),
    seq_length: int = 40,
    seq_length_y: int = 20,
) -> Dataset:
    """Call the command in this process, in corpus order unless told otherwise."""
    given = [
        "--seq_length",
        seq_length,
        "--seq_length_y",
        seq_length_y,
        "--workers",
        1,
        "--shuffle",
        "false",
        *options,
    ]
    preprocess.main(
        ["--input_files", str(source), "--output", str(output), *tokenizer, *map(str, given)]
    )
    return open_dataset(str(output / "train" if "--valid_fraction" in options else output))


def pairs_of(dataset: Dataset) -> list[tuple[list[int], list[int]]]:
    """Ids of both sides of every pair in file order, padding at the end left out."""
    layout, wide, found = dataset.layout, dataset.lengths, []
    for shard in dataset.shards:
        payload, sound = layout.unframe(
            np.fromfile(dataset.path(shard), np.uint8).reshape(-1, layout.record_bytes)
        )
        assert sound.all()
        ids = np.ascontiguousarray(payload[:, -(-wide["x"] // 8) :]).view("<u2")
        for row in ids:
            x, y = row[: wide["x"]].tolist(), row[wide["x"] :].tolist()
            found.append(
                tuple(
                    side[: max((i + 1 for i, t in enumerate(side) if t), default=0)]
                    for side in (x, y)
                )
            )
    return found  # type: ignore[return-value]


def texts_of(dataset: Dataset) -> list[tuple[str, str]]:
    """Both sides of every pair as text, `<EOU>` and other special tokens shown as "|"."""
    tokenizer = dataset.load_tokenizer()

    def text(ids: list[int]) -> str:
        pieces: list[list[int]] = [[]]
        for i in ids:
            if tokenizer.tokens[i] in ("<EOU>", "[SEP]"):
                pieces.append([])
            else:
                pieces[-1].append(i)
        return "|".join(tokenizer.decode(piece) for piece in pieces)

    return [(text(x), text(y)) for x, y in pairs_of(dataset)]


CONVERSATIONS = [["the Senate", "of peace", "and war"], ["treaty", "commerce"]]
EXPECTED = [("the Senate", "of peace"), ("the Senate|of peace", "and war"), ("treaty", "commerce")]


def turns_file(tmp_path: Path) -> Path:
    return write_text(tmp_path / "turns.txt", CONVERSATIONS)


def rows_file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.txt"
    path.write_text("".join(f"{x.replace('|', ' <EOU> ')}\t{y}\n" for x, y in EXPECTED))
    return path


def json_file(tmp_path: Path) -> Path:
    path = tmp_path / "turns.jsonl"
    path.write_text("".join(json.dumps({"turns": turns}) + "\n" for turns in CONVERSATIONS))
    return path


def gzip_file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.txt.gz"
    path.write_bytes(gzip.compress(rows_file(tmp_path).read_bytes()))
    return path


@pytest.mark.parametrize("make", [turns_file, rows_file, json_file, gzip_file])
@pytest.mark.parametrize("tokenizer", [[*BPE, *EOU], WORDPIECE], ids=["bpe", "wordpiece"])
def test_next_turns_from_conversations_rows_and_lists_are_the_same(
    tmp_path: Path, make: Any, tokenizer: list[str]
) -> None:
    dataset = run(make(tmp_path), tmp_path / "out", "--pairs", "ntp", tokenizer=tokenizer)
    lower = [(x.lower(), y.lower()) for x, y in texts_of(dataset)]
    assert lower == [(x.lower(), y.lower()) for x, y in EXPECTED]
    assert dict(dataset.lengths) == {"x": 40, "y": 20} and dataset.metadata["pairs"] == "ntp"


def test_the_last_turn_alone(tmp_path: Path) -> None:
    expected = [(x.split("|")[-1], y) for x, y in EXPECTED]
    for make in (turns_file, rows_file, json_file):
        dataset = run(
            make(tmp_path),
            tmp_path / f"out-{make.__name__}",
            "--pairs",
            "ntp",
            "--last_turn_only",
            tokenizer=BPE,
        )
        assert texts_of(dataset) == expected and dataset.metadata["turn_sep"] is None


@pytest.mark.parametrize(
    ("kind", "more", "texts"),
    [
        ("ntp", [], ["the Senate of peace <EOU> and war and treaty <EOU> commerce of the Senate"]),
        (
            "ntp",
            ["--last_turn_only"],
            ["the Senate of peace <EOU> and war and treaty <EOU> commerce of the Senate"],
        ),
        ("ntp", [], ["the Senate"]),
        ("tsv", [], ["the Senate of peace and war and treaty", "commerce <EOU> of the Senate"]),
    ],
)
@pytest.mark.parametrize("seq_length", [7, 40])
@pytest.mark.parametrize("tokenizer", [[*BPE, *EOU], WORDPIECE], ids=["bpe", "wordpiece"])
def test_a_text_alone_is_framed_as_the_first_of_a_pair(
    tmp_path: Path,
    kind: str,
    more: list[str],
    texts: list[str],
    seq_length: int,
    tokenizer: list[str],
) -> None:
    """`predict respond` and `generate` read what the model was trained on, cut alike."""
    path = tmp_path / "rows.txt"
    path.write_text("".join(f"{text}\tpeace\n" for text in texts))
    wordpiece = tokenizer is WORDPIECE
    frame = ["--prefix", "[CLS]", *([] if wordpiece else ["--x_suffix", "<EOS>"])]
    dataset = run(
        path,
        tmp_path / "out",
        "--pairs",
        kind,
        *more,
        *frame,
        tokenizer=tokenizer,
        seq_length=seq_length,
    )
    loaded, told = dataset.load_tokenizer(), dataset.metadata
    prefix, suffix, turn = (
        loaded.id_of(told[name]) if told[name] else None
        for name in ("prefix", "suffix", "turn_sep")
    )
    packing = Packing(seq_length, loaded.pad_id, prefix, suffix)
    framed = framed_texts(
        [text.encode() for text in texts], loaded, packing, turn=turn, first_of=told["pairs"]
    )
    assert [[i for i in row if i] for row in framed.tolist()] == [x for x, _ in pairs_of(dataset)]


def test_frames_of_both_sides_change_no_other_id(tmp_path: Path) -> None:
    plain = pairs_of(run(rows_file(tmp_path), tmp_path / "plain", "--pairs", "ntp"))
    frame = [
        "--prefix",
        "[CLS]",
        "--x_suffix",
        "<EOS>",
        "--y_prefix",
        "<GO>",
        "--y_suffix",
        "<EOS>",
    ]
    framed = run(rows_file(tmp_path), tmp_path / "framed", "--pairs", "ntp", *frame)
    cls, eos, go = (
        framed.load_tokenizer().required_id(token) for token in ("[CLS]", "<EOS>", "<GO>")
    )
    assert pairs_of(framed) == [([cls, *x, eos], [go, *y, eos]) for x, y in plain]
    assert framed.metadata["y_prefix"] == "<GO>" and framed.metadata["suffix"] == "<EOS>"


def test_long_histories_lose_their_oldest_words_and_long_responses_their_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_text(
        tmp_path / "turns.txt",
        [["people's congress liberty union", "déjà naïve commerce", "treaty 1848 don't war"]],
    )
    whole = pairs_of(run(source, tmp_path / "whole", "--pairs", "ntp"))
    dataset = run(
        source,
        tmp_path / "cut",
        "--pairs",
        "ntp",
        "--y_suffix",
        "<EOS>",
        seq_length=8,
        seq_length_y=4,
    )
    tokenizer, eos = dataset.load_tokenizer(), 2
    cut_x = cut_y = 0
    for (x, y), (full_x, full_y) in zip(pairs_of(dataset), whole, strict=True):
        assert x == full_x[len(full_x) - len(x) :] and y == [*full_y[:3], eos]
        before = full_x[len(full_x) - len(x) - 1] if len(x) < len(full_x) else None
        assert before is None or not tokenizer.tokens[before].endswith("@@"), "cut inside a word"
        assert tokenizer.tokens[x[0]] != "<EOU>"
        cut_x, cut_y = cut_x + (len(x) < len(full_x)), cut_y + (len(full_y) > 3)
    assert (
        cut_x and cut_y and (dataset.metadata["cut_x"], dataset.metadata["cut_y"]) == (cut_x, cut_y)
    )
    assert (
        f"{cut_x} first texts lost their beginning, {cut_y} second texts their end"
        in capsys.readouterr().out
    )


def test_columns_by_number_and_by_name_and_fields(tmp_path: Path) -> None:
    rows = [("the Senate", "of peace", "and war"), ("treaty", "commerce", "nation")]
    numbered, named, fields = (
        tmp_path / "numbered.tsv",
        tmp_path / "named.tsv",
        tmp_path / "rows.jsonl",
    )
    numbered.write_text("".join("\t".join(row) + "\r\n" for row in rows))
    named.write_text("a\tb\tc\n" + numbered.read_text())
    fields.write_text(
        "".join(json.dumps(dict(zip("abc", row, strict=True))) + "\n" for row in rows)
    )
    expected = [(c, a) for a, _, c in rows]
    assert (
        texts_of(run(numbered, tmp_path / "1", "--pairs", "tsv", "--pair_columns", "3", "1"))
        == expected
    )
    assert (
        texts_of(run(named, tmp_path / "2", "--pairs", "tsv", "--pair_columns", "c", "a"))
        == expected
    )
    assert (
        texts_of(run(fields, tmp_path / "3", "--pairs", "tsv", "--pair_columns", "c", "a"))
        == expected
    )
    assert texts_of(run(numbered, tmp_path / "4", "--pairs", "tsv")) == [(a, b) for a, b, _ in rows]
    twice = tmp_path / "twice.tsv"
    twice.write_text("a\ta\tc\nx\ty\tz\n")
    with pytest.raises(UsageError, match=r"twice.tsv:1: --pair_columns a: .*names 2 such"):
        run(twice, tmp_path / "6", "--pairs", "tsv", "--pair_columns", "c", "a")
    with pytest.raises(UsageError, match=r"named.tsv:1: --pair_columns z"):
        run(named, tmp_path / "5", "--pairs", "tsv", "--pair_columns", "z", "a")


BAD = [
    (
        "ntp",
        "rows.txt",
        "a\tb\nno tab here\nc\td\te\n\tb\n",
        {2: "no tab", 3: "several tabs", 4: "empty column"},
    ),
    ("tsv", "rows.tsv", "a\tb\nonly one\nx\t\n", {2: "row without column 2", 3: "empty column"}),
    (
        "tsv",
        "rows.jsonl",
        '{"x": "a", "y": "b"}\n{"x": "a"}\nnot json\n{"x": "a", "y": 3}\n',
        {2: "field 'y'", 3: "not JSON", 4: "field 'y'"},
    ),
    (
        "ntp",
        "rows.jsonl",
        '{"turns": ["a", "b"]}\n{"turns": ["a"]}\n{"turns": "a"}\n{}\n',
        {2: "one turn", 3: "no list", 4: "without the field"},
    ),
    ("tsv", "rows.csv", "a\tb\na,b\n", {2: "row without column 2, as tabs divide it"}),
    ("tsv", "three.tsv", "a\tb\nc\td\te\n", {2: "row of more than 2 columns"}),
    ("tsv", "half.jsonl", '{"x": "a", "y": "b"}\n{"x": "a\\ud800", "y": "b"}\n', {2: "surrogate"}),
    ("nsp", "nul.jsonl", '{"text": "a b"}\n{"text": "a\\u0000 b"}\n', {2: "NUL bytes"}),
    ("ntp", "turns.txt", "a\nb\n\nalone\n\nc\nd\n", {4: "one turn"}),
    ("nsp", "text.txt", "the peace. of war.\n\na\n\nthe nation\n", {3: "give no pair"}),
]


@pytest.mark.parametrize(
    ("kind", "name", "content", "bad"), BAD, ids=[f"{b[0]}-{b[1]}" for b in BAD]
)
def test_bad_rows_are_named_by_file_and_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    name: str,
    content: str,
    bad: dict[int, str],
) -> None:
    path = tmp_path / name
    path.write_text(content)
    dataset = run(path, tmp_path / "out", "--pairs", kind)
    assert sum(dataset.metadata["bad_input"].values()) == len(bad) and dataset.num_samples >= 1
    shown = capsys.readouterr().out
    for line, what in bad.items():
        told = [report for report in shown.splitlines() if f"{name}:{line}" in report]
        assert told and what in told[0]
    first = min(bad)
    with pytest.raises(UsageError, match=rf"{name}:{first}: .*{bad[first]}"):
        run(path, tmp_path / "strict", "--pairs", kind, "--strict")


def test_documents_are_halved_between_sentences_and_nothing_is_lost(tmp_path: Path) -> None:
    docs = documents(30, seed=3)
    source = write_text(tmp_path / "text.txt", docs)
    dataset = run(source, tmp_path / "out", "--pairs", "nsp", seq_length=24, seq_length_y=24)
    found, tokenizer = pairs_of(dataset), dataset.load_tokenizer()
    assert dataset.metadata["cut_x"] == dataset.metadata["cut_y"] == 0
    assert [i for x, y in found for i in (*x, *y)] == [
        i for doc in docs for line in doc for i in tokenizer.encode(line)
    ]
    assert all(x and y for x, y in found)
    ends = {tuple(tokenizer.encode(line))[-3:] for doc in docs for line in doc}
    between = [
        tuple(x[-3:]) in ends or tokenizer.tokens[x[-1]].endswith((".", "!")) for x, _ in found
    ]
    assert np.mean(between) > 0.6, "most cuts fall between sentences"
    assert all(not tokenizer.tokens[x[-1]].endswith("@@") for x, _ in found), (
        "no cut falls inside a word"
    )


def test_a_short_document_is_halved_near_its_middle(tmp_path: Path) -> None:
    source = write_text(
        tmp_path / "text.txt",
        [["the Senate of peace. nation of war! union"], ["the nation of peace"]],
    )
    found = texts_of(
        run(source, tmp_path / "out", "--pairs", "nsp", seq_length=30, seq_length_y=30)
    )
    assert found == [("the Senate of peace.", "nation of war! union"), ("the nation", "of peace")]


def test_conversations_are_held_out_whole(tmp_path: Path) -> None:
    known = ["the", "of", "and", "Senate", "nation", "peace", "war", "treaty", "commerce"]
    names = [f"{a} {b}" for a in known for b in known]
    docs = [[f"{turn} {name}" for turn in known[:4]] for name in names]
    dataset = run(
        write_text(tmp_path / "turns.txt", docs),
        tmp_path / "out",
        "--pairs",
        "ntp",
        "--valid_fraction",
        0.3,
    )
    train, valid = texts_of(dataset), texts_of(open_dataset(str(tmp_path / "out" / "valid")))
    kept, held_out = ({y.split(" ", 1)[1] for _, y in side} for side in (train, valid))
    assert kept | held_out == set(names) and not kept & held_out
    assert len(train) + len(valid) == 3 * len(docs) and len(valid) % 3 == 0 and valid


def test_any_number_of_workers_gives_the_same_bytes_and_a_second_call_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_text(tmp_path / "turns.txt", documents(200, seed=1))
    shuffled = ["--pairs", "ntp", "--shuffle", "true", "--valid_fraction", "0.2"]
    made = [
        hashes(Path(run(source, tmp_path / f"w{n}", *shuffled, "--workers", n).directory).parent)
        for n in (1, 2)
    ]
    assert made[0] == made[1] and len(made[0]) > 4
    capsys.readouterr()
    run(source, tmp_path / "w1", *shuffled)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UsageError, match="last_turn_only"):
        run(source, tmp_path / "w1", *shuffled, "--last_turn_only")


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    source = rows_file(tmp_path)
    for options, message in [
        (["--pairs", "none", "--seq_length_y", "8"], "--seq_length_y: acts only with --pairs"),
        (["--pairs", "ntp", "--packing", "documents"], "--packing: acts only with --pairs none"),
        (["--pairs", "nsp", "--last_turn_only"], "--last_turn_only: acts only with --pairs ntp"),
        (
            ["--pairs", "nsp", "--turn_sep", "[SEP]"],
            "--turn_sep: acts only with --pairs ntp, and this is --pairs nsp",
        ),
        (
            ["--pairs", "tsv", "--turn_sep", "[SEP]"],
            "--turn_sep: acts only with --pairs ntp, and this is --pairs tsv",
        ),
        (["--pairs", "tsv", "--pair_columns", "1"], "takes 2"),
        (
            ["--pairs", "ntp", "--y_prefix", "<NONE>"],
            "--y_prefix <NONE>: the vocabulary has no such token",
        ),
    ]:
        with pytest.raises(UsageError, match=message):
            run(source, tmp_path / "out", *options)
    with pytest.raises(
        UsageError,
        match="--turn_sep <EOU>: the vocabulary has no such token .add it to --extra_tokens",
    ):
        run(source, tmp_path / "out", "--pairs", "ntp", tokenizer=BPE)
    with pytest.raises(UsageError, match="--seq_length_y 1: no room"):
        run(source, tmp_path / "out", "--pairs", "ntp", "--y_prefix", "<GO>", seq_length_y=1)


def test_datasets_without_pairs_have_the_bytes_they_had_before_there_were_pairs(
    tmp_path: Path,
) -> None:
    options = [
        "--input_files",
        str(TOKENIZERS / "speech.txt"),
        "--output",
        str(tmp_path),
        *BPE,
        "--seq_length",
        "32",
        "--workers",
        "1",
    ]
    preprocess.main(options)
    (shard,) = tmp_path.glob("*.tfrecord")
    assert (
        hashlib.sha256(shard.read_bytes()).hexdigest()
        == "b71b6e8d3d773c31d6e54a452a9241f48c883d66ebadd59c6383656dd5a4c27d"
    )
    told = yaml.safe_load((tmp_path / "md.yml").read_text())
    assert not {"pairs", "nctx_y"} & set(told["made_from"])


def test_a_broken_preprocessing_goes_on_to_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_text(tmp_path / "turns.txt", documents(200, seed=1))
    given = ["--pairs", "ntp", "--shuffle", "true", "--max_file_size", "0.02"]
    whole = hashes(Path(run(source, tmp_path / "whole", *given).directory))
    write, written = worker.write_shard, []

    def breaks(*arguments: Any) -> Any:
        if len(written) == 2:
            raise OSError("the disk is gone")
        written.append(write(*arguments))
        return written[-1]

    monkeypatch.setattr(worker, "write_shard", breaks)
    with pytest.raises(OSError, match="gone"):
        run(source, tmp_path / "broken", *given)
    monkeypatch.undo()
    capsys.readouterr()
    assert (
        hashes(Path(run(source, tmp_path / "broken", *given).directory)) == whole and len(whole) > 6
    )
    assert "1 parts and 2 shards were there from before" in capsys.readouterr().out
