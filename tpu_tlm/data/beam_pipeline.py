"""A pipeline of Apache Beam: its options, and its errors as one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from tpu_tlm.errors import TlmError, UsageError

# Beam knows this runner by its full name only.
_DASK = ("=DaskRunner", "=apache_beam.runners.dask.dask_runner.DaskRunner")
_OURS = re.compile(r"tpu_tlm\.errors\.(\w+): (.*?)(?: \[while running|\n|$)")


def run_pipeline(build: Callable[[Any, Any], None], options: Sequence[str]) -> None:
    """Run the pipeline that `build(apache_beam, pipeline)` makes, to its end.

    options: Beam's own, as name=value. Raises `UsageError` without apache-beam or for options that
    Beam refuses, `TlmError` when the pipeline fails.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise UsageError(
            "--runner beam: needs Apache Beam: pip install 'tpu-tlm[beam]' ([dataflow], [dask])"
        ) from None
    flags = [f"--{option.lstrip('-')}".replace(*_DASK) for option in options]
    try:
        with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
            build(beam, pipeline)
    except SystemExit:
        raise UsageError(f"--beam_options {' '.join(options)}: Beam refuses them") from None
    except Exception as error:
        raise _cause(error) from error


def _cause(error: BaseException) -> TlmError:
    """Our own error below what Beam raised; otherwise one that quotes Beam's last line."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, TlmError):
            text = str(seen).split(" [while running")[0]
            return type(seen)(text) if type(seen) in (TlmError, UsageError) else TlmError(text)
        seen = seen.__cause__ or seen.__context__
    text = str(error)
    if ours := _OURS.search(text):  # from another process there is only the text
        return UsageError(ours[2]) if ours[1] == "UsageError" else TlmError(ours[2])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    fix = ""
    if "ModuleNotFoundError" in text and "tpu_tlm" in text:
        fix = (
            ": the workers have no tpu_tlm: give --beam_options sdk_container_image=IMAGE, the "
            "target `beam` of docker/Dockerfile"
        )
    last = lines[-1][:300] if lines else ""
    return TlmError(f"--runner beam: {type(error).__name__}: {last}{fix}")
