"""What Keras imports in a process that runs a command."""

from __future__ import annotations

import subprocess
import sys

from tests.paths import ROOT

PROGRAM = """
import sys
from tpu_tlm.errors import run_command

def main(argv):
    import keras

    loaded = [name for name in ("sklearn", "matplotlib", "pandas") if name in sys.modules]
    import matplotlib.pyplot
    import sklearn.metrics

    print(loaded, keras.ops.ones((1, 2)).shape, sklearn.metrics.accuracy_score([1], [1]))

sys.exit(run_command(main, []))
"""


def test_a_command_imports_keras_without_what_it_does_not_use() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[] (1, 2) 1.0\n"
