"""Peak memory of vocabulary learning on text without spaces between words.

    python -m benchmarks.vocabulary_memory [--megabytes 200] [--kinds wordpiece bpe byte-bpe
    unigram] [--texts lines sentences] [--workers 2] [--limit 1000]

Two texts, made here: `lines` has lines of three Chinese characters, all of them different, as in
tests/data/files/field; `sentences` has lines of 15 to 60 characters, of words that are as frequent
as in Zipf's law, in Chinese characters and kana. Memory is the sum over the processes of a command
(PSS; RSS counts shared pages once for each process), sampled four times a second. Exit code 1 when
a command needs more than --limit.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.preprocessing import measure

KINDS = ("wordpiece", "bpe", "byte-bpe", "unigram")
_ROWS = 1 << 20


def write_lines(path: Path, megabytes: int) -> None:
    """Different lines of three characters, 10 bytes each."""
    count = megabytes * 100_000
    side = next(n for n in range(2, 2000) if n**3 >= count)
    with path.open("wb") as out:
        for begin in range(0, count, _ROWS):
            number = np.arange(begin, min(begin + _ROWS, count))
            rows = np.stack(
                [
                    0x4E00 + number // side**2,
                    0x5800 + number // side % side,
                    0x6800 + number % side,
                    np.full(len(number), 10),
                ],
                1,
            )
            out.write(rows.astype("<u4").tobytes().decode("utf-32-le").encode())


def write_sentences(path: Path, megabytes: int, seed: int = 0) -> None:
    """Lines of 15 to 60 characters of words of one to four characters."""
    rng = np.random.default_rng(seed)
    words = 50_000
    lengths = rng.choice([1, 2, 3, 4], words, p=[0.1, 0.6, 0.2, 0.1])
    letters = 0x4E00 + rng.zipf(1.3, (words, 4)) % 6000
    kana = rng.random(words) < 0.2
    letters[kana] = 0x3041 + letters[kana] % 0x50
    table = np.where(np.arange(4) < lengths[:, None], letters, 0)
    written = 0
    with path.open("wb") as out:
        while written < megabytes * 1_000_000:
            drawn = table[(rng.zipf(1.2, _ROWS) - 1) % words].reshape(-1)
            text = drawn[drawn > 0]
            ends = np.cumsum(rng.integers(15, 61, len(text) // 15))
            ends = ends[ends < len(text)]
            data = np.insert(text, ends, 10).astype("<u4").tobytes().decode("utf-32-le").encode()
            written += out.write(data + b"\n")


TEXTS = {"lines": write_lines, "sentences": write_sentences}


def main() -> int:
    """Make the texts, learn every kind from each, print a row for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--texts", nargs="+", default=list(TEXTS), choices=list(TEXTS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--vocab_size", type=int, default=30000)
    parser.add_argument("--limit", type=int, default=1000, help="MB")
    options = parser.parse_args()
    worst = 0.0
    print("| text | kind | MB of text | CPU-seconds | peak memory, MB: PSS (sum of RSS) |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        for name in options.texts:
            text, output = directory / f"{name}.txt", directory / "out"
            TEXTS[name](text, options.megabytes)
            for kind in options.kinds:
                shutil.rmtree(output, ignore_errors=True)
                command = [sys.executable, "-m", "tpu_tlm.vocab", "--input_files", str(text)]
                command += ["--subword_type", kind, "--output", str(output)]
                command += ["--vocab_size", str(options.vocab_size)]
                usage = measure([*command, "--workers", str(options.workers)])
                worst = max(worst, usage.pss_mb)
                print(
                    f"| {name} | {kind} | {text.stat().st_size / 1e6:.0f} | {usage.cpu:.0f} | "
                    f"{usage.pss_mb:.0f} ({usage.rss_mb:.0f}) |",
                    flush=True,
                )
            text.unlink()
    if worst > options.limit:
        print(f"{worst:.0f} MB is over the limit of {options.limit} MB")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
