"""What to do with a trained model: commands to type next."""

from __future__ import annotations

import shlex

from tpu_tlm.config import Config


def next_steps(config: Config) -> list[str]:
    """Lines with the next commands for the model of a run."""
    run, objective = shlex.quote(config.run.run_dir), config.run.objective
    lines = ["next:"]
    if objective in ("mlm", "electra"):
        lines.append(f"  tpu-tlm predict fill-mask --model {run} --text 'a text with a [MASK]'")
    elif objective in ("clm", "seq2seq"):
        lines.append(f"  tpu-tlm predict generate --model {run} --text 'the beginning of a text'")
    elif objective == "dual-encoder":
        lines.append(f"  tpu-tlm predict respond --model {run} --candidates FILE --text TEXT")
    if config.data.valid_dir:
        valid = shlex.quote(config.data.valid_dir)
        lines.append(f"  tpu-tlm evaluate --model {run} --data {valid}")
    lines.append(f"  tpu-tlm convert {run} {run}-hf --to hf")
    if objective != "seq2seq":
        lines.append(
            f"  tpu-tlm finetune --task classify --model {run} --train labelled.csv --run_dir tuned"
        )
    return [*lines, f"  {run}/report.html has the curves"] if config.run.report else lines
