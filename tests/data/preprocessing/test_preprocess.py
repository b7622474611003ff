"""The preprocess command in one process: what goes in comes out, whatever the options."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from tests.command_modules import preprocess
from tests.paths import DATA_FILES
from tpu_tlm.data.dataset.dataset import Dataset, open_dataset
from tpu_tlm.data.preprocessing import external_sort
from tpu_tlm.data.preprocessing import preprocess as preprocessing
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.errors import TlmError, UsageError

TOKENIZERS = DATA_FILES / "tokenizers"
BPE = ["--codes", str(TOKENIZERS / "codes"), "--vocab", str(TOKENIZERS / "vocab")]
WORDPIECE = ["--subword_type", "wordpiece", "--vocab", str(TOKENIZERS / "vocab.txt")]
WORDS = (
    "the of and Senate nation peace war treaty commerce déjà 1848 don't naïve 国会 people's, "
    "congress. union! liberty"
).split()


def documents(count: int, seed: int = 0) -> list[list[str]]:
    """Documents of lines of English-like words, all different."""
    rng = random.Random(seed)
    return [
        [
            " ".join(
                [
                    *(WORDS[int(digit)] for digit in str(number)),
                    *rng.choices(WORDS, k=rng.randint(1, 30)),
                ]
            )
            for _ in range(rng.randint(1, 4))
        ]
        for number in range(count)
    ]


def write_text(path: Path, docs: list[list[str]]) -> Path:
    """A plain text file, an empty line after each document."""
    path.write_text("\n".join("\n".join(doc) + "\n" for doc in docs))
    return path


def run(source: Path | list[Path], output: Path, *options: Any, tokenizer: list[str] = BPE) -> int:
    """Call the command in this process with one worker."""
    sources = source if isinstance(source, list) else [source]
    given = [*tokenizer, "--seq_length", "16", "--workers", "1", *map(str, options)]
    return preprocess.main(["--input_files", *map(str, sources), "--output", str(output), *given])


def examples(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """All ids and word starts of a dataset in file order."""
    layout, ids, starts = dataset.layout, [], []
    for shard in dataset.shards:
        records = np.fromfile(dataset.path(shard), np.uint8).reshape(-1, layout.record_bytes)
        payload, sound = layout.unframe(records)
        assert sound.all() and len(records) == shard.samples
        bits = -(-dataset.seq_length // 8)
        starts.append(
            np.unpackbits(payload[:, :bits], axis=1, bitorder="little")[
                :, : dataset.seq_length
            ].astype(bool)
        )
        ids.append(np.ascontiguousarray(payload[:, bits:]).view("<u2"))
    return np.concatenate(ids), np.concatenate(starts)


def tokens_of(tokenizer: Tokenizer, docs: list[list[str]], eol: int | None) -> list[list[int]]:
    """Token ids of each document, line by line."""
    return [
        [i for line in doc for i in [*tokenizer.encode(line), *([] if eol is None else [eol])]]
        for doc in docs
    ]


def hashes(directory: Path) -> dict[str, str]:
    """MD5 of every file below a directory."""
    return {
        str(p.relative_to(directory)): hashlib.md5(p.read_bytes()).hexdigest()
        for p in sorted(directory.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("tokenizer", [BPE, WORDPIECE], ids=["bpe", "wordpiece"])
def test_in_corpus_order_the_examples_are_the_text(tmp_path: Path, tokenizer: list[str]) -> None:
    docs = documents(200)
    assert (
        run(
            write_text(tmp_path / "a.txt", docs),
            tmp_path / "out",
            "--shuffle",
            "false",
            tokenizer=tokenizer,
        )
        == 0
    )
    dataset = open_dataset(str(tmp_path / "out"))
    dataset.verify()
    made = dataset.load_tokenizer()
    assert dataset.tokenizer == made.description()
    flat = [i for doc in tokens_of(made, docs, made.sep_id) for i in doc]  # BPE's sep is <EOS>
    ids, starts = examples(dataset)
    assert ids.reshape(-1).tolist() == flat + [made.pad_id] * (-len(flat) % 16)
    encoded = made.encode_lines([line.encode() for doc in docs for line in doc])
    words = int(encoded.word_start.sum()) + sum(len(doc) for doc in docs)
    assert int(starts.sum()) == words and starts[ids == made.sep_id].all()
    assert dataset.metadata["tokens"] == len(flat) and dataset.metadata["documents"] == 200
    assert not (tmp_path / "out" / ".preprocess").exists()


def test_shuffling_moves_examples_only(tmp_path: Path) -> None:
    source = write_text(tmp_path / "a.txt", documents(300))
    for name, options in {
        "order": ["--shuffle", "false"],
        "one": ["--seed", 1],
        "two": ["--seed", 2],
    }.items():
        run(source, tmp_path / name, *options)
    order, one, two = (
        examples(open_dataset(str(tmp_path / name)))[0] for name in ("order", "one", "two")
    )
    assert sorted(map(tuple, order)) == sorted(map(tuple, one)) == sorted(map(tuple, two))
    assert (order != one).any() and (one != two).any()
    rank = {tuple(row): index for index, row in enumerate(order)}
    assert abs(np.corrcoef(np.arange(len(one)), [rank[tuple(row)] for row in one])[0, 1]) < 0.2


def test_shards_are_even_and_cut_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_text(tmp_path / "a.txt", documents(300))
    run(source, tmp_path / "one")
    monkeypatch.setattr(external_sort, "CHUNK_BYTES", 999)
    monkeypatch.setattr(external_sort, "BUCKET_BYTES", 2000)
    run(source, tmp_path / "many", "--max_file_size", 0.01)
    one, many = open_dataset(str(tmp_path / "one")), open_dataset(str(tmp_path / "many"))
    assert len(one.shards) == 1 and len(many.shards) > 3
    assert (
        len({shard.samples for shard in many.shards[:-1]}) == 1
        and many.shards[-1].samples <= many.shards[0].samples
    )
    assert max(shard.bytes for shard in many.shards) <= 0.01 * 2**20
    np.testing.assert_array_equal(examples(one)[0], examples(many)[0])


@pytest.mark.parametrize("tokenizer", [BPE, WORDPIECE], ids=["bpe", "wordpiece"])
def test_prefix_suffix_and_document_boundaries(tmp_path: Path, tokenizer: list[str]) -> None:
    docs = documents(60)
    ends = ["--prefix", "[CLS]", "--suffix", "<EOS>", "--eol_token", "none"]
    run(
        write_text(tmp_path / "a.txt", docs),
        tmp_path / "out",
        "--packing",
        "documents",
        "--shuffle",
        "false",
        *ends,
        tokenizer=tokenizer,
    )
    dataset = open_dataset(str(tmp_path / "out"))
    made = dataset.load_tokenizer()
    expected = []
    for tokens in tokens_of(made, docs, None):
        for at in range(0, len(tokens), 14):
            row = [made.cls_id, *tokens[at : at + 14], made.sep_id]
            expected.append(row + [made.pad_id] * (16 - len(row)))
    ids, starts = examples(dataset)
    assert ids.tolist() == expected
    assert not starts[:, 0].any() and not starts[ids == made.pad_id].any()


def test_held_out_documents_are_whole_and_apart(tmp_path: Path) -> None:
    docs = documents(1000)
    run(
        write_text(tmp_path / "a.txt", docs),
        tmp_path / "out",
        "--valid_fraction",
        0.2,
        "--packing",
        "documents",
        "--seq_length",
        1024,
    )
    train, valid = (open_dataset(str(tmp_path / "out" / name)) for name in ("train", "valid"))
    made = train.load_tokenizer()
    rows = {tuple(t): n for n, t in enumerate(tokens_of(made, docs, made.sep_id))}
    assert len(rows) == 1000
    found = {}
    for dataset in (train, valid):
        found[dataset.directory] = {
            rows[tuple(i for i in row if i != made.pad_id)] for row in examples(dataset)[0].tolist()
        }
    held = found[valid.directory]
    assert held | found[train.directory] == set(range(1000)) and not held & found[train.directory]
    assert 150 < len(held) < 250 and (train.metadata["split"], valid.metadata["split"]) == (
        "train",
        "valid",
    )
    assert train.tokenizer == valid.tokenizer
    other = tmp_path / "other"
    run(
        tmp_path / "a.txt",
        other,
        "--valid_fraction",
        0.2,
        "--packing",
        "documents",
        "--seq_length",
        1024,
        "--seed",
        5,
    )
    again = {
        rows[tuple(i for i in row if i != made.pad_id)]
        for row in examples(open_dataset(str(other / "valid")))[0].tolist()
    }
    assert again != held


def test_every_kind_of_file_gives_the_same(tmp_path: Path) -> None:
    docs = documents(80)
    plain = write_text(tmp_path / "a.txt", docs).read_bytes()
    lines = "".join(json.dumps({"id": 1, "body": "\n".join(doc)}) + "\n" for doc in docs).encode()
    sources = {
        "a.txt": plain,
        "a.txt.gz": gzip.compress(plain),
        "a.txt.zst": zstandard.compress(plain),
        "a.jsonl": lines,
        "a.json.gz": gzip.compress(lines),
        "a.jsonl.zst": zstandard.compress(lines),
    }
    found = {}
    for name, data in sources.items():
        (tmp_path / name).write_bytes(data)
        run(tmp_path / name, tmp_path / f"out-{name}", "--json_field", "body")
        found[name] = open_dataset(str(tmp_path / f"out-{name}")).shards[0].sha256
    assert len(set(found.values())) == 1


def test_no_token_is_lost_between_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "SMALLEST_PART", 500)
    docs = documents(150)
    write_text(tmp_path / "a.txt", docs[:100])
    write_text(tmp_path / "b.txt", docs[100:])
    run([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "out")
    dataset = open_dataset(str(tmp_path / "out"))
    made = dataset.load_tokenizer()
    ids = examples(dataset)[0]
    expected = sorted(i for doc in tokens_of(made, docs, made.sep_id) for i in doc)
    assert sorted(ids[ids != made.pad_id].tolist()) == expected
    padded = (ids == made.pad_id).any(axis=1)
    assert padded.sum() <= 1


@pytest.mark.parametrize("pack", ["across", "documents"])
def test_a_line_of_megabytes_is_one_line(tmp_path: Path, pack: str) -> None:
    line = " ".join(random.Random(0).choices(WORDS, k=400_000))  # several blocks and parts
    (tmp_path / "a.txt").write_text(line)
    run(
        tmp_path / "a.txt",
        tmp_path / "out",
        "--shuffle",
        "false",
        "--seq_length",
        512,
        "--packing",
        pack,
    )
    dataset = open_dataset(str(tmp_path / "out"))
    made = dataset.load_tokenizer()
    ids = examples(dataset)[0]
    expected = made.encode_lines([line.encode()]).ids
    # Parts put what they leave over at the end, so the order of whole examples is the text's only
    # within a part.
    assert sorted(ids[ids != made.pad_id].tolist()) == sorted([*expected.tolist(), made.sep_id])
    np.testing.assert_array_equal(ids[0], expected[:512])


def test_bad_input_is_counted_named_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_bytes(b"good line here\nbad \xff\xfe bytes\n")
    (tmp_path / "b.txt").write_bytes(b"")
    (tmp_path / "c.jsonl").write_text('{"text": "fine text"}\n{"other": 1}\nnot json\n')
    sources = [tmp_path / name for name in ("a.txt", "b.txt", "c.jsonl")]
    assert run(sources, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    for place in ("a.txt:2", "b.txt", "c.jsonl:2", "c.jsonl:3"):
        assert place in printed
    assert sum(open_dataset(str(tmp_path / "out")).metadata["bad_input"].values()) == 4
    for source, place in zip(sources, ("a.txt:2", "b.txt", "c.jsonl:2"), strict=True):
        with pytest.raises(UsageError, match=place):
            run(source, tmp_path / "strict", "--strict")
        with pytest.raises(UsageError):
            open_dataset(str(tmp_path / "strict"))


def test_a_finished_output_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_text(tmp_path / "a.txt", documents(30))
    out = tmp_path / "out"
    run(source, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert run(source, out) == 0 and "nothing to do" in capsys.readouterr().out
    with pytest.raises(
        UsageError, match=r"already holds a dataset, made differently \(seed: 0 there, 3 now\)"
    ):
        run(source, out, "--seed", 3)
    with pytest.raises(UsageError, match="already holds a dataset"):
        run(source, out, "--valid_fraction", 0.5)
    write_text(source, documents(31))
    with pytest.raises(UsageError, match="already holds a dataset"):
        run(source, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prefix", "[NOPE]"], r"--prefix \[NOPE\]: the vocabulary has no such token"),
        (["--eol_token", "[NOPE]"], "--eol_token"),
        (["--seq_length", 1, "--prefix", "[CLS]"], "--seq_length 1"),
        (["--valid_fraction", 1], "--valid_fraction 1:"),
        (["--valid_fraction", 1e-9], "--valid_fraction: of 5 documents none"),
        (["--max_file_size", 0], "--max_file_size"),
        (["--workers", -1], "--workers"),
        (["--packing", "tight"], "--packing"),
    ],
)
def test_wrong_use(tmp_path: Path, options: list[Any], message: str) -> None:
    source = write_text(tmp_path / "a.txt", documents(5))
    with pytest.raises(UsageError, match=message):
        run(source, tmp_path / "out", *options)


def test_text_without_text_and_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n \n")
    with pytest.raises(UsageError, match="no text in them.*a.txt"):
        run(tmp_path / "a.txt", tmp_path / "out")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"hello there\n" * 1000)[:-20])
    with pytest.raises(TlmError, match="b.txt.gz"):
        run(tmp_path / "b.txt.gz", tmp_path / "out")


def test_object_store_output(tmp_path: Path) -> None:
    import tensorflow as tf

    from tpu_tlm.data.dataset.stream import in_order

    source = write_text(tmp_path / "a.txt", documents(50))
    run(source, tmp_path / "local", "--valid_fraction", 0.3)
    remote = f"ram://bucket-{tmp_path.name}/set"  # TensorFlow's in-memory file system
    args = [
        "--input_files",
        str(source),
        "--output",
        remote,
        *BPE,
        "--seq_length",
        "16",
        "--workers",
        "1",
        "--valid_fraction",
        "0.3",
    ]
    assert preprocess.main([*args, "--work_dir", str(tmp_path / "work")]) == 0
    assert preprocess.main(args) == 0  # finished: nothing to do
    assert not list((tmp_path / "work").iterdir())
    dataset = open_dataset(f"{remote}/train")
    dataset.verify()
    assert dataset.load_tokenizer().description() == dataset.tokenizer
    assert [s.sha256 for s in dataset.shards] == [
        s.sha256 for s in open_dataset(str(tmp_path / "local" / "train")).shards
    ]
    batches = list(in_order(dataset, 7).as_numpy_iterator())
    ids = np.concatenate([batch["x"] for batch in batches])[: dataset.num_samples]
    np.testing.assert_array_equal(ids, examples(open_dataset(str(tmp_path / "local" / "train")))[0])
    tf.io.gfile.remove(dataset.path(dataset.shards[0]))
    with pytest.raises(UsageError, match="is missing"):
        open_dataset(f"{remote}/train")


def test_help_is_quick_and_without_tensorflow() -> None:
    code = """
import sys
from tpu_tlm.preprocess import main
try:
    main(["--help"])
finally:
    assert "tensorflow" not in sys.modules
"""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert time.perf_counter() - begun < 2  # half a second on a quiet machine
    assert (
        done.returncode == 0
        and "--valid_fraction" in done.stdout
        and "(default 256; " in done.stdout
    )
