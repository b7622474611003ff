"""Write the directory `files` and `expected.json`: what the first edition (6530876) leaves on disk.

To be run at commit 6530876 only, in the root of the repository:
`python -m tests.first_edition.make`. The files stand for those of users, so later code must read
them as they are. The text is the State of the Union addresses of 1790 and 1796 (public domain) from
`tests/data_files/tokenizers/speech.txt`, and a conversation written for this purpose.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.first_edition.commands import call, checksums, figures, objects

HERE = Path(__file__).resolve().parent
SPEECH = HERE.parent / "data_files" / "tokenizers" / "speech.txt"
COMMIT = "6530876"
STEPS, MORE = 4, 6
WORDPIECE = "--subword_type wordpiece --vocab vocab/wordpiece/vocab.txt --cased false"
BPE = (
    "--subword_type bpe --codes vocab/bpe/codes --vocab vocab/bpe/vocab "
    "--extra_tokens [CLS] [MASK] <EOU>"
)
SIZES = "--d_model 16 --d_ff 32 --num_heads 2 --num_layers 1"
BERT = (
    "--embed_type learned-positional --rpr_k 0 --transformer_type post-layer-norm "
    "--embeddings_reduction sum-layer-norm "
    "--token_type_vsz 2 --mlm_head bert --output_bias true --activation gelu-exact"
)
GPT2 = (
    "--embed_type learned-positional --rpr_k 0 --output_bias false --embeddings_dropout 0.1 "
    "--layer_norm_eps 1e-5 --mask_pad false"
)
DUAL = "--d_out 12 --reduction_d_k 8"
# Name of a run -> its dataset, and the flags that only it has.
RUNS = {
    "mlm": ("wordpiece", f"{BERT} --npz true"),
    "mlm_relative": ("bpe", "--rpr_k 3 --mask_mode whole-word --optim lamb"),
    "mlm_roberta": (
        "bpe",
        f"{BERT.replace('--token_type_vsz 2', '--token_type_vsz 1')} --dropout 0",
    ),
    "clm": ("bpe", f"--causal true {GPT2} --grad_accum 2"),
    "dual_encoder": ("ntp", f"--objective dual-encoder {DUAL} --rpr_k 2"),
    "seq2seq_pairs": ("tsv", "--objective seq2seq --ra_type t5 --optim adafactor"),
    "seq2seq_denoising": (
        "wordpiece",
        "--objective seq2seq --denoise spans --noise_density 0.3 --mean_span 2 --ra_type t5",
    ),
    "electra": ("wordpiece", f"--objective electra {BERT} --gen_fraction 0.5 --dsz 8"),
    "discriminator": (
        "mead",
        f"--objective discriminator --label_one original --ra_type rotary {WORDPIECE}",
    ),
    "own": (
        "wordpiece",
        "--objective own_objective.py:Repeated --rpr_k 2 --optim sgd --lr_schedule constant",
    ),
}
# Evaluated with a dataset of another kind than it was trained on.
MORE_EVALUATIONS = {
    "dual_encoder_nsp": "--model runs/dual_encoder --data data/nsp_valid --candidates 8"
}
# Name of an export -> the run, and the flags of convert.
EXPORTS = {
    "bert": ("mlm", "--to hf"),
    "roberta": ("mlm_roberta", "--to hf --family roberta"),
    "electra": ("electra", "--to hf --family electra"),
    "electra_generator": ("electra", "--to hf --part generator"),
    "gpt2": ("clm", "--to hf"),
    "bert_checkpoint": ("mlm", "--to bert"),
    "saved_model": ("mlm", "--to savedmodel --length 16"),
    "mlm.npz": ("mlm", ""),
    "clm.npz": ("clm", ""),
    "dual_encoder.npz": ("dual_encoder", ""),
    "seq2seq_pairs.npz": ("seq2seq_pairs", ""),
    "discriminator.npz": ("electra", "--part discriminator"),
}
MEASURED = {
    "mlm.npz": "wordpiece",
    "clm.npz": "bpe",
    "seq2seq_pairs.npz": "tsv",
    "bert": "wordpiece",
}
MASKED = ("--json", "true", "--top_k", "3", "--text")
PREDICTIONS = [
    ["fill-mask", "--model", "runs/mlm", *MASKED, "the united [MASK] of america"],
    ["fill-mask", "--model", "runs/mlm_relative", *MASKED, "the United [MASK] of America"],
    ["fill-mask", "--model", "runs/electra", *MASKED, "the united [MASK] of america"],
    [
        "generate",
        "--model",
        "runs/clm",
        "--json",
        "true",
        "--max_tokens",
        "6",
        "--temperature",
        "0",
        "--text",
        "the people",
    ],
    [
        "generate",
        "--model",
        "runs/clm",
        "--json",
        "true",
        "--max_tokens",
        "6",
        "--top_k",
        "9",
        "--seed",
        "3",
        "--text",
        "the people",
    ],
    [
        "generate",
        "--model",
        "runs/seq2seq_pairs",
        "--json",
        "true",
        "--max_tokens",
        "6",
        "--beam",
        "2",
        "--text",
        "the people",
    ],
    [
        "respond",
        "--model",
        "runs/dual_encoder",
        "--json",
        "true",
        "--top_k",
        "2",
        "--candidates",
        "text/responses.txt",
    ]
    + ["--text", "is the harbour open"],
]
WHO = ["the baker", "a sailor", "my sister", "the miller", "our neighbour", "the teacher"]
WHAT = ["the harbour", "the old mill", "the market", "the school", "the bridge", "the garden"]
REPLY = [
    "yes, {} is open until noon",
    "no, {} is closed today",
    "{} opens when the rain stops",
    "ask at {} in the morning",
]


def words(text: str) -> list[str]:
    return text.split()


def write_text() -> None:
    """The corpora: plain text, conversations, rows of two columns, and responses to choose from."""
    lines = [line.strip() for line in SPEECH.read_text().splitlines() if line.strip()]
    middle = 12
    parts = {"train": lines[1:middle], "valid": lines[middle : middle + 5]}
    Path("text").mkdir()
    for number, (name, part) in enumerate(parts.items()):
        Path(f"text/{name}.txt").write_text("\n\n".join(part) + "\n")
        halves = [line.split()[:24] for line in ". ".join(part).split(". ")]
        rows = [
            " ".join(h[: len(h) // 2]) + "\t" + " ".join(h[len(h) // 2 :])
            for h in halves
            if len(h) > 5
        ]
        Path(f"text/{name}.tsv").write_text("\n".join(rows) + "\n")
        turns = []
        for at in range(24 if name == "train" else 12):
            who, what = WHO[(at + number) % 6], WHAT[(at * 5 + at // 6) % 6]
            turns.append(
                f"{who} asks: is {what} open?\n{REPLY[at % 4].format(what)}\nthen {who} will wait\n"
            )
        Path(f"text/{name}_turns.txt").write_text("\n".join(turns))
    Path("text/responses.txt").write_text(
        "\n".join(reply.format("the harbour") for reply in REPLY) + "\n"
    )


def write_mead(name: str, examples: int, seed: int, vocab_size: int) -> None:
    """Records as MEAD's ELECTRA preprocessing leaves them: int64 `x` and `y` (1 = original)."""
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    Path(f"data/{name}").mkdir(parents=True)
    x = 5 + (rng.integers(0, 40, (examples, 1)) + np.arange(16)) % 40
    replaced = rng.random(x.shape) < 0.2
    x = np.where(replaced, rng.integers(5, vocab_size, x.shape), x)
    for shard in range(2):
        with tf.io.TFRecordWriter(f"data/{name}/train-{shard}.tfrecord") as writer:
            for row, labels in zip(
                x[shard::2].tolist(), (1 - replaced[shard::2]).tolist(), strict=True
            ):
                feature = {
                    k: tf.train.Feature(int64_list=tf.train.Int64List(value=v))
                    for k, v in {"x": row, "y": labels}.items()
                }
                writer.write(
                    tf.train.Example(
                        features=tf.train.Features(feature=feature)
                    ).SerializeToString()
                )
    Path(f"data/{name}/md.yml").write_text(f"num_samples: {examples}\n")


def write_data() -> None:
    for kind, size in (("wordpiece", 190), ("bpe", 110)):
        flags = f"--subword_type {kind} --vocab_size {size} --workers 1"
        call("vocab", *words(f"--input_files text/train.txt --output vocab/{kind} {flags}"))
    shards = "--max_file_size 0.003 --workers 1 --seed 5"
    for part in ("train", "valid"):
        for name, source, flags in (
            ("wordpiece", f"{part}.txt", f"--nctx 16 --prefix [CLS] --suffix [SEP] {WORDPIECE}"),
            ("bpe", f"{part}.txt", f"--nctx 16 --pack documents {BPE}"),
            ("ntp", f"{part}_turns.txt", f"--pairs ntp --nctx 24 --nctx_y 16 {WORDPIECE}"),
            ("nsp", f"{part}.txt", f"--pairs nsp --nctx 24 --nctx_y 16 {WORDPIECE}"),
            (
                "tsv",
                f"{part}.tsv",
                f"--pairs tsv --nctx 24 --nctx_y 16 --y_prefix <GO> --y_suffix <EOS> {BPE}",
            ),
        ):
            call(
                "preprocess",
                *words(f"--input_files text/{source} --output data/{name}_{part} {flags} {shards}"),
            )
    size = len(Path("vocab/wordpiece/vocab.txt").read_text().split("\n")) - 1
    write_mead("mead_train", 64, 0, size)
    write_mead("mead_valid", 20, 1, size)


def train_flags(name: str, steps: int) -> list[str]:
    """The command line of a run, in the spelling of the first edition."""
    data, flags = RUNS[name]
    places = f"--train_dir data/{data}_train --valid_dir data/{data}_valid --basedir runs/{name}"
    how_long = f"--steps {steps} --save_steps 2 --keep 1 --steps_per_call 2 --batch_size 8"
    rates = "--warmup_steps 1 --lr 1e-2 --lr_end 0.5 --seed 3"
    rest = "--tb false --distribute none --xla false"
    return words(f"{places} {SIZES} {flags} {how_long} {rates} {rest}")


def measured(flags: str) -> dict[str, Any]:
    argv = words(f"{flags} --distribute none --xla false")
    (result,) = objects(call("evaluate", *argv))
    return {"argv": argv, "result": result}


def run(name: str, scratch: str) -> dict[str, Any]:
    """Train a run, record what it gives, and what a continued copy of it gives."""
    started, again = train_flags(name, STEPS), train_flags(name, MORE)
    call("train", *started)
    os.remove(f"runs/{name}/lock")
    own = " --objective own_objective.py:Repeated" if name == "own" else ""
    candidates = " --candidates 8" if name == "dual_encoder" else ""
    flags = f"--model runs/{name} --data data/{RUNS[name][0]}_valid{candidates}{own}"
    found: dict[str, Any] = {"train": started, "continue": again, "evaluate": measured(flags)}
    call("convert", f"runs/{name}", f"{scratch}/{name}.npz")
    found["arrays"] = checksums(f"{scratch}/{name}.npz")
    kept = f"{scratch}/{name}"
    shutil.copytree(f"runs/{name}", kept)
    call("train", *again)
    call("convert", f"runs/{name}", f"{scratch}/{name}-continued.npz")
    found["continued"] = {
        "arrays": figures(f"{scratch}/{name}-continued.npz"),
        "evaluate": measured(flags)["result"],
    }
    shutil.rmtree(f"runs/{name}")
    shutil.move(kept, f"runs/{name}")
    return found


def main() -> None:
    files = HERE / "files"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    shutil.copy(HERE / "own_objective.py", files / "own_objective.py")
    os.chdir(files)
    write_text()
    write_data()
    expected: dict[str, Any] = {"commit": COMMIT, "runs": {}, "models": {}, "evaluations": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for name in RUNS:
            print(name, file=sys.stderr, flush=True)
            expected["runs"][name] = run(name, scratch)
        for name, flags in MORE_EVALUATIONS.items():
            expected["evaluations"][name] = measured(flags)
        Path("exports").mkdir()
        for name, (source, flags) in EXPORTS.items():
            print(name, file=sys.stderr, flush=True)
            call("convert", f"runs/{source}", f"exports/{name}", *words(flags))
            call("convert", f"exports/{name}", f"{scratch}/model-{name}.npz")
            expected["models"][name] = {
                "source": source,
                "arrays": checksums(f"{scratch}/model-{name}.npz"),
            }
            if name in MEASURED:
                expected["models"][name]["evaluate"] = measured(
                    f"--model exports/{name} --data data/{MEASURED[name]}_valid"
                )
    expected["predict"] = [
        {"argv": argv, "result": objects(call("predict", *argv))} for argv in PREDICTIONS
    ]
    # 2 MB of graph, 90 kB packed.
    shutil.make_archive("exports/saved_model", "xztar", "exports", "saved_model")
    shutil.rmtree("exports/saved_model")
    os.remove("own_objective.py")
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
