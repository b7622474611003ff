"""Validate rendered manifests: kubectl kustomize DIR | python -m tests.manifests.validate -

Exit code 1 and one line per fault where a server or an operator would refuse an object.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from tests.manifests import rules, schemas


def main(paths: list[str]) -> int:
    """Print what is wrong with the objects in these files (`-`: standard input)."""
    bad = 0
    for path in paths:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
        for document in filter(None, yaml.safe_load_all(text)):
            name = (document.get("metadata") or {}).get("name")
            found = schemas.faults(document) or rules.faults(document)
            bad += len(found)
            for line in found or ["ok"]:
                print(f"{document.get('kind')}/{name}: {line}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
