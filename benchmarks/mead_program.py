"""MEAD's own programs on a Python and a TensorFlow of today, unchanged, with their training timed.

    TF_USE_LEGACY_KERAS=1 python -m benchmarks.mead_program CURVE PROGRAM [FLAGS ...]

PROGRAM is a module of mead.api_examples in mead-baseline 2.4.2. Before it runs, names that
Python 3.10 removed are put back and TensorFlow Addons is given the Keras 2 that it asks for. CURVE
is written where the program trains; its losses are the validation losses that MEAD prints.
"""

from __future__ import annotations

import collections
import collections.abc
import importlib
import sys
from pathlib import Path
from typing import Any

from benchmarks.learning_curve import Stopwatch

SEED = 0
_REMOVED = ("Mapping", "MappingView", "MutableMapping", "Sequence")
_KERAS_2 = ("", ".src", ".src.backend", ".src.engine", ".src.engine.keras_tensor", ".src.utils")


def prepare() -> None:
    """Make mead-baseline 2.4.2 importable, and its random numbers the same every time."""
    for name in _REMOVED:
        setattr(collections, name, getattr(collections.abc, name))
    for name in _KERAS_2:
        sys.modules[f"keras{name}"] = importlib.import_module(f"tf_keras{name}")
    import numpy as np
    import tensorflow as tf

    np.random.seed(SEED)
    tf.random.set_seed(SEED)


class Averages:
    """Makes the class with which MEAD averages losses tell the time too.

    An average of training losses is made before an epoch's first step and updated after each step;
    one of validation losses is made after the epoch's last step.
    """

    def __init__(self) -> None:
        self.watch, self.made = Stopwatch(), 0
        self.validations: list[tuple[int, Any]] = []

    def timed(self, average: type) -> type:
        """A class like `average` that also records."""
        averages = self

        class Timed(average):  # type: ignore[misc,valid-type]
            """MEAD's `Average`, which also tells the time."""

            def __init__(self, name: str, *arguments: Any) -> None:
                super().__init__(name, *arguments)
                self.trains = "train" in name
                if self.trains:
                    averages.watch.go()
                else:
                    averages.validations.append((averages.made, self))

            def update(self, value: float, count: int = 1) -> None:
                super().update(value, count)
                if self.trains:
                    averages.made += 1
                    averages.watch.steps(averages.made)

        return Timed

    def save(self, path: Path) -> None:
        """Write the curve."""
        for made, average in self.validations:
            self.watch.curve.losses.append((made, average.avg))
        self.watch.curve.save(path)


def main(arguments: list[str]) -> None:
    """Run the program to its end."""
    curve, program, *flags = arguments
    prepare()
    module: Any = importlib.import_module(f"mead.api_examples.{program}")
    averages = Averages()
    if hasattr(module, "Average"):
        module.Average = averages.timed(module.Average)
    sys.argv = [program, *flags]
    module.main()
    if averages.made:
        averages.save(Path(curve))


if __name__ == "__main__":
    main(sys.argv[1:])
