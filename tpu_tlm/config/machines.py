"""Options of commands whose work several machines can share: vocab and preprocess."""

from __future__ import annotations

from typing import Any, Literal

from tpu_tlm.config.options import opt
from tpu_tlm.errors import OptionError

Runner = Literal["local", "beam"]


def runner_option() -> Any:
    """`--runner`, of type `Runner`."""
    return opt(
        "local",
        "local: processes of this machine; beam: Apache Beam (extra beam), on the runner that "
        "--beam_options name",
        shapes_data=False,
    )


def beam_option() -> Any:
    """`--beam_options`, a list of texts."""
    return opt(
        [],
        "options of Apache Beam, such as runner=DaskRunner dask_client_address=tcp://HOST:8786",
        unit="NAME=VALUE",
        only_with={"runner": ("beam",)},
        shapes_data=False,
    )


def index_option() -> Any:
    """`--index`, a whole number; `check_index` compares it with `--of`."""
    return opt(
        0,
        "number of this process among --of, from 0",
        unit="number",
        minimum=0,
        shapes_data=False,
    )


def of_option(work: str) -> Any:
    """`--of`, a whole number. work: what the processes do together, and what they must see."""
    return opt(
        1,
        f"processes on several machines that {work}",
        unit="processes",
        minimum=1,
        only_with={"runner": ("local",)},
        shapes_data=False,
    )


def check_index(index: int, of: int) -> None:
    """Raise `OptionError` for the index of a process that is none of `of`."""
    if index >= of:
        raise OptionError(f"--index {index}: must be below --of {of}")
