"""How a command imports large packages: without what it does not use and without collections.

For a process that runs a command. A program that imports `tpu_tlm` imports as it likes.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

# Packages that Keras imports where they are installed, and the part of Keras that is for them: its
# estimators for scikit-learn, its pictures of images, data frames as data, its editor of files in a
# notebook; and sparse data of the Keras of 2019, from which TensorFlow takes its recurrent cells.
_OPTIONAL = {
    "sklearn": "keras.src.wrappers",
    "matplotlib": "keras.src.visualization",
    "matplotlib.pyplot": "keras.src.visualization",
    "pandas": "keras.src.trainers.data_adapters",
    "IPython": "keras.src.saving",
    "scipy": "tensorflow.python.keras",
    "scipy.sparse": "tensorflow.python.keras",
}


class _AbsentForKeras(MetaPathFinder):
    """Keras' own imports of optional packages fail as where they are not installed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        part = _OPTIONAL.get(name)
        if part is not None and any(
            module.startswith(part) and getattr(found.__spec__, "_initializing", False)
            for module, found in list(sys.modules.items())
            if found is not None
        ):
            raise ModuleNotFoundError(f"{name}: not imported for Keras in a command", name=name)


# Packages whose imports make some hundred thousand objects, none of them garbage.
_LARGE = ("tensorflow", "keras")


class _Loader(SourceFileLoader):
    """A loader of a package during whose import no garbage is collected."""

    def exec_module(self, module: ModuleType) -> None:
        with without_collection():
            super().exec_module(module)


class _LargePackages(MetaPathFinder):
    """Finds `_LARGE` where Python's own finder does."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _LARGE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Collect no garbage meanwhile; what there is at the end is never looked at again.

    Collections take a third of the time in which TensorFlow is imported, and every later one would
    look through all that it made. Without effect inside itself and where a program collects none.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_quickly() -> None:
    """Let TensorFlow and Keras be imported faster from now on; before they are.

    Keras does without scikit-learn, pyplot, pandas, IPython and SciPy, which take over a second:
    models use none of its parts for them. The packages can be imported as ever by anyone else.
    """
    for finder in (_LargePackages, _AbsentForKeras):
        if not any(isinstance(found, finder) for found in sys.meta_path):
            sys.meta_path.insert(0, finder())
