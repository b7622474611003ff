"""How Keras is imported: with TensorFlow's backend; in commands without what they do not use."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

VARIABLE = "KERAS_BACKEND"
FIX = f"unset {VARIABLE}, or set it to tensorflow, before Python starts"


def unusable_backend(environ: Mapping[str, str]) -> str | None:
    """What is wrong with the backend that Keras has, or will have once imported; None: nothing.

    Does not import Keras, so that a backend named only in keras.json is not seen before that.
    """
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "config"):
        backend = keras.config.backend()
        return f"Keras was imported with the {backend} backend" if backend != "tensorflow" else None
    wanted = environ.get(VARIABLE) or "tensorflow"
    return f"{VARIABLE}={wanted}" if wanted != "tensorflow" else None


# Packages that Keras imports where they are installed, and the part of Keras that is for them: its
# estimators for scikit-learn, its pictures of images, data frames as data.
_OPTIONAL = {
    "sklearn": "keras.src.wrappers",
    "matplotlib": "keras.src.visualization",
    "matplotlib.pyplot": "keras.src.visualization",
    "pandas": "keras.src.trainers.data_adapters",
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


def skip_optional_packages() -> None:
    """Let Keras be imported without scikit-learn, pyplot and pandas, which take over a second.

    For a process that runs a command, whose models use none of Keras' parts for them; the packages
    can be imported as ever by anyone else.
    """
    if not any(isinstance(finder, _AbsentForKeras) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AbsentForKeras())
