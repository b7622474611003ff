"""An estimate of the memory of a training step, and the memory that there is."""

from __future__ import annotations

import math
import shutil
import subprocess
from dataclasses import dataclass

from tpu_tlm.config import Config, OptimConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.models.layers.core import GATED
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.training.optimizers.registry import make_optimizer

# Arrays of the size of the parameters while a step runs: values, gradients, new values.
_COPIES = 3
# Arrays kept per layer for the backward pass, in units of [tokens, width], of the feed-forward
# width (a gate has two more), and of the attention scores.
_WIDE, _FEED, _SCORES = 12, 3, 3
# Logits, their softmax and its gradient, in float32.
_LOGITS = 3


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a step on one device.

    fixed: parameters, gradients, optimizer; activations: of one micro-batch.
    """

    fixed: int
    activations: int

    @property
    def total(self) -> int:
        """Both."""
        return self.fixed + self.activations


def step_memory(
    config: Config, spec: ModelSpec, parameters: int, replicas: int, precision: str
) -> StepMemory:
    """Estimate the memory of a training step on each device; an estimate only."""
    model = spec.config
    rows = max(1, config.data.batch_size // (replicas * config.optim.grad_accum))
    slots = _slots(config.optim) / (replicas if config.optim.shard_optimizer else 1)
    copies = _COPIES + 2 * slots + (1 if config.optim.grad_accum > 1 else 0)
    tokens = rows * max(spec.seq_length, spec.seq_length_y or 0)
    feed = (_FEED + (2 if model.activation in GATED else 0)) * model.d_ff
    wide = _WIDE + (4 if model.dropout else 0)
    per_layer = tokens * (wide * model.d_model + feed)
    per_layer += _SCORES * tokens * spec.seq_length * model.num_heads
    layers = model.num_layers + (model.num_decoder_layers or 0)
    kept = tokens * model.d_model * layers + per_layer if model.recompute else per_layer * layers
    share = {"mlm": config.mlm.mask_rate, "electra": config.mlm.mask_rate}
    predictions = tokens * share.get(spec.kind, 1.0 if spec.kind in ("clm", "seq2seq") else 0.0)
    logits = _LOGITS * predictions * spec.vocab_size * 4
    width = 2 if precision == "bfloat16" else 4
    return StepMemory(int(4 * copies * parameters), int(kept * width + logits))


def _slots(config: OptimConfig) -> float:
    """Numbers that the optimizer keeps for each number of a large matrix."""
    shape = (4096, 4096)
    kept = make_optimizer(config).slots_of(shape).values()
    return sum(math.prod(slot) for slot in kept) / math.prod(shape)


def check_size(spec: ModelSpec, memory: int | None) -> None:
    """Raise `UsageError` for a model whose float32 values alone take more than `memory` bytes.

    The count is a lower bound from the sizes: a model of a damaged or mistaken configuration is
    refused before anything of it is allocated.
    """
    model = spec.config
    layers = model.num_layers + (model.num_decoder_layers or 0)
    attention = 2 * (model.d_model if model.d_k is None else model.d_k * model.num_heads)
    tables = 0
    if "shaw" in model.position_encoding and not model.mlp:
        head = model.d_k or model.d_model // model.num_heads
        tables = (1 + model.rpr_value_on) * sum(2 * k + 1 for k in model.rpr_k) * head
        tables *= layers if len(model.rpr_k) == 1 else 1
    blocks = 1 if model.shared_layers else layers
    count = blocks * model.d_model * (model.d_ff if model.mlp else attention + 2 * model.d_ff)
    count += tables + spec.vocab_size * min(model.d_model, model.embedding_size or model.d_model)
    if memory is not None and 4 * count > memory:
        raise UsageError(
            f"--num_layers {model.num_layers} --d_model {model.d_model} --d_ff {model.d_ff}"
            f" --rpr_k {' '.join(map(str, model.rpr_k))}, vocabulary {spec.vocab_size:,}: a model"
            f" of more than {count:,} parameters, which take {gigabytes(4 * count)};"
            f" {gigabytes(memory)} of memory are free: make it smaller"
        )


def available_memory(kind: str) -> int | None:
    """Bytes that one device of this kind has free; None where it is not known."""
    if kind == "cpu":
        return host_memory()
    return _gpu_memory() if kind == "gpu" else None


def host_memory() -> int | None:
    """Bytes that this machine, or this container, has free; None where it is not known."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            with open(limit, encoding="ascii") as one, open(used, encoding="ascii") as other:
                free = min(free, int(one.read()) - int(other.read()))
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    return free


def _gpu_memory() -> int | None:
    """Of the GPU with the least; MiB by nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        return min(int(line) for line in said.split()) << 20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def smaller_batch(config: Config, memory: StepMemory, free: int, replicas: int) -> str:
    """The flag that makes the step fit: fewer examples at a time; empty where none does."""
    rows = max(1, config.data.batch_size // (replicas * config.optim.grad_accum))
    fits = int(0.9 * (free - memory.fixed) / max(memory.activations / rows, 1))
    if fits < 1:
        return ""
    accum = config.optim.grad_accum
    batch = config.data.batch_size
    while accum <= batch:
        accum += 1
        if batch % (replicas * accum) == 0 and batch // (replicas * accum) <= fits:
            break
    largest = fits * replicas * config.optim.grad_accum
    power = 1 << (largest.bit_length() - 1)
    smaller = f"--batch_size {power if power % replicas == 0 else largest}"
    return f"{smaller}, or --grad_accum {accum}" if accum <= batch else smaller


def gigabytes(size: float) -> str:
    """A size to read."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
