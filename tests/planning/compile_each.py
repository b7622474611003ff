"""Compiles a small step of every objective for one v5e: python -m tests.planning.compile_each; a
line of JSON for each.
"""

from __future__ import annotations

import json
import sys

from tpu_tlm.planning import environment


def main() -> None:
    """The names come on the command line."""
    environment.prepare()
    from tests.planning.steps import ELMO, ROWS, SHARDED, VARIANTS, elmo_step, small_step
    from tpu_tlm.planning.chips import parse_slice
    from tpu_tlm.planning.compiler import Refused, compile_for
    from tpu_tlm.planning.cycles import costs
    from tpu_tlm.planning.lower import lower
    from tpu_tlm.planning.stand_in import batch_specs

    for name in sys.argv[1:]:
        kind, _, tpu = name.removesuffix(SHARDED).partition("@")
        slice_ = parse_slice(tpu or "v5e-1")
        if kind == ELMO:
            step, specs = elmo_step()
        else:
            given = VARIANTS.get(kind, {"objective": kind})
            if name.endswith(SHARDED):
                given = {**given, "shard_optimizer": True}
            step, corpora = small_step(slice_.chips, **given)
            specs = batch_specs(corpora.train, ROWS)
        compiled = compile_for(lower(step, specs, slice_.chips, slice_.name), slice_)
        assert not isinstance(compiled, Refused)
        found = costs(compiled.text)
        state = sum(v.shape.num_elements() for v in step.model.variables) * 4
        values = {
            "name": name,
            "hbm": compiled.hbm,
            "aliased": compiled.aliased,
            "state": state,
            "cycles": found.cycles,
        }
        print(json.dumps({**values, "missing": found.missing()}), flush=True)


if __name__ == "__main__":
    main()
