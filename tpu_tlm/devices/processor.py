"""What the processor of this machine can do."""

from __future__ import annotations

import re
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# Instructions that multiply bfloat16: of Intel and AMD, and of ARM.
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


def multiplies_bfloat16(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether the processor multiplies bfloat16 itself; False where Linux does not say."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return bool(flags) and all(not _BFLOAT16.isdisjoint(line.split()) for line in flags)
