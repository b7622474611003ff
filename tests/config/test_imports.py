"""How a process that runs a command imports TensorFlow and Keras."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.paths import ROOT
from tpu_tlm.config.imports import without_collection

PROGRAM = """
import gc
import sys
from tpu_tlm.errors import run_command

def main(argv):
    collected = []
    gc.callbacks.append(lambda phase, about: collected.append(phase))
    import tensorflow
    during, frozen = len(collected), gc.get_freeze_count()
    import keras

    absent = ("sklearn", "matplotlib", "pandas", "IPython", "scipy")
    loaded = [name for name in absent if name in sys.modules]
    import matplotlib.pyplot
    import scipy.sparse
    import sklearn.metrics

    print(loaded, keras.ops.ones((1, 2)).shape, sklearn.metrics.accuracy_score([1], [1]))
    print(scipy.sparse.eye(3).nnz)
    print(during, frozen > 100_000, gc.isenabled())

sys.exit(run_command(main, []))
"""


def test_a_command_imports_what_it_uses_and_collects_nothing_meanwhile() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[] (1, 2) 1.0\n3\n0 True True\n"


@pytest.fixture
def collector() -> Iterator[None]:
    yield
    gc.enable()


@pytest.mark.usefixtures("collector")
def test_collection_goes_on_after_an_error_and_stays_off_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ImportError), without_collection():
        with without_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    # Their number says nothing: objects that were frozen may end meanwhile.
    frozen: list[str] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append("freeze"))
    monkeypatch.setattr(gc, "unfreeze", lambda: frozen.append("unfreeze"))
    with without_collection():
        pass
    assert not gc.isenabled() and not frozen
