"""`vocab --runner beam`: the bytes of the local command, on Beam's own runner and on Dask.

`make beam-check` runs what needs apache-beam, in an environment of its own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import tpu_tlm as tlm
from tests.bucket import NAME, Bucket
from tests.data.conftest import kill_a_busy_worker
from tests.data.tokenizers.test_shared_counting import (
    KINDS,
    PART,
    arguments,
    contents,
    small_parts,
    text,
)
from tests.paths import ROOT
from tpu_tlm.vocab import main

needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="no apache-beam here: make beam-check"
)
__all__ = ["small_parts", "text"]  # fixtures


@needs_beam
@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_are_those_of_the_local_command(kind: str, text: Path, tmp_path: Path) -> None:
    assert main(arguments(text, tmp_path / "local", kind)) == 0
    assert main(arguments(text, tmp_path / "beam", kind, "--runner", "beam")) == 0
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")


@needs_beam
def test_what_is_counted_is_not_counted_again(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counts are those of `--index`, whichever counted them."""
    work = ["--work_dir", str(tmp_path / "work")]
    argv = arguments(text, tmp_path / "beam", "bpe", *work)
    assert main([*argv, "--index", "1", "--of", "2"]) == 0
    (place,) = (tmp_path / "work").iterdir()
    before = len(list(place.glob("counts-*")))
    assert main([*argv, "--runner", "beam", "--beam_options", "runner=DirectRunner"]) == 0
    assert f"{before} parts were counted before" in capsys.readouterr().err
    assert main(arguments(text, tmp_path / "local", "bpe")) == 0
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")


@needs_beam
def test_in_a_bucket(text: Path, tmp_path: Path) -> None:
    """Counts and vocabulary are on gs://, where the workers see them; calls fail."""
    assert main(arguments(text, tmp_path / "local", "wordpiece")) == 0
    with Bucket(seed=3) as bucket:
        bucket.fail(action=503, chance=0.02)
        argv = arguments(text, f"gs://{NAME}/vocab", "wordpiece", "--runner", "beam")
        command = [sys.executable, "-m", "tpu_tlm.vocab", *argv]
        subprocess.run(command, cwd=ROOT, env=os.environ | bucket.environ, check=True)
        found = bucket.objects("vocab/")
    found = {key.removeprefix("vocab/"): data for key, data in found.items() if key[-1] != "/"}
    assert found == contents(tmp_path / "local")


@needs_beam
def test_bad_input_is_our_own_error(text: Path, tmp_path: Path) -> None:
    with pytest.raises(tlm.UsageError, match=r"a\.txt:\d+: bytes that are not UTF-8") as error:
        main(arguments(text, tmp_path / "beam", "bpe", "--runner", "beam", "--strict"))
    assert "[while running" not in str(error.value)
    assert all(name.startswith(".vocab/") for name in contents(tmp_path / "beam"))


def test_without_beam_the_extra_is_named(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(tlm.UsageError, match=r"--runner beam: .*tpu-tlm\[beam\]"):
        main(arguments(text, tmp_path / "x", "bpe", "--runner", "beam"))


@needs_beam
def test_a_dask_cluster_that_loses_a_worker(
    cluster: tuple[str, list[subprocess.Popen[bytes]]], text: Path, tmp_path: Path
) -> None:
    address, processes = cluster
    assert main(arguments(text, tmp_path / "local")) == 0
    code = f"""
        import sys
        from tpu_tlm.data.tokenizers import learn_vocabulary
        from tpu_tlm.vocab import main

        learn_vocabulary.PART_BYTES = {PART}
        sys.exit(main(sys.argv[1:]))
    """
    options = ["runner=DaskRunner", f"dask_client_address={address}"]
    argv = arguments(text, tmp_path / "beam", "wordpiece", "--runner", "beam")
    command = [sys.executable, "-c", textwrap.dedent(code), *argv, "--beam_options", *options]
    pipeline = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    kill_a_busy_worker(address, processes, pipeline)
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")
