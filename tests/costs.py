"""Record what tests cost: python -m tests.costs LOG, the output of pytest with --durations=0.

`PYTEST_ADDOPTS="--durations=0 --durations-min=0.1" make test-all > LOG` on an idle machine.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path

from tests.conftest import COSTS, SLOW

_LINE = re.compile(r"^\s*([\d.]+)s (?:call|setup|teardown)\s+(\S.*?)\s*$", re.M)


def costs_in(text: str) -> dict[str, float]:
    """Node id -> seconds with setup and teardown, of tests that count as slow."""
    found: dict[str, float] = defaultdict(float)
    for seconds, name in _LINE.findall(text):
        found[name] += float(seconds)
    return {name: round(cost, 1) for name, cost in sorted(found.items()) if cost >= SLOW}


if __name__ == "__main__":
    found = costs_in(Path(sys.argv[1]).read_text())
    COSTS.write_text(json.dumps(found, indent=0) + "\n")
    print(f"{len(found)} tests of {SLOW} s or more, {sum(found.values()):.0f} s together")
