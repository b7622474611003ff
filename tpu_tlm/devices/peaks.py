"""Peak arithmetic of known devices, for model FLOPs utilisation (MFU)."""

from __future__ import annotations

import os
import re
from typing import NamedTuple


class Peak(NamedTuple):
    """Dense TFLOP/s of one device as TensorFlow counts devices; None without hardware for it."""

    bfloat16: float | None
    float32: float | None


# TPU: "Peak compute per chip (bf16)" of Google Cloud's page for each generation. TensorFlow counts
# the two cores of a v2 or v3 chip as two devices, later chips as one. XLA multiplies float32
# matrices in one bfloat16 pass by default, hence equal columns.
# GPU: NVIDIA's data sheets, tensor cores without sparsity; float32 is TF32 where there is TF32,
# which TensorFlow uses by default. V100 and T4 have no bfloat16 unit.
_PEAKS: tuple[tuple[str, Peak], ...] = (
    (r"\bv2(-\d+)?\b", Peak(22.5, 22.5)),
    (r"\bv3(-\d+)?\b", Peak(61.5, 61.5)),
    (r"\bv4(-\d+)?\b", Peak(275.0, 275.0)),
    (r"\bv5(e| ?lite|litepod)(-\d+)?\b", Peak(197.0, 197.0)),
    (r"\bv5p(-\d+)?\b", Peak(459.0, 459.0)),
    (r"\bv6e(-\d+)?\b", Peak(918.0, 918.0)),
    (r"\bb200\b", Peak(2250.0, 1125.0)),
    (r"\bh200 nvl\b", Peak(835.0, 417.5)),
    (r"\bh200\b", Peak(989.0, 494.5)),
    (r"\bh100 nvl\b", Peak(835.0, 417.5)),
    (r"\bh100[ -]pcie\b", Peak(756.0, 378.0)),
    (r"\bh100\b", Peak(989.0, 494.5)),
    (r"\ba100\b", Peak(312.0, 156.0)),
    (r"\ba30\b", Peak(165.0, 82.0)),
    (r"\ba10\b", Peak(125.0, 62.5)),
    (r"\bl40s\b", Peak(362.0, 183.0)),
    (r"\bl4\b", Peak(121.0, 60.0)),
    (r"\bv100-pcie\b", Peak(None, 14.0)),
    (r"\bv100\b", Peak(None, 15.7)),
    (r"\bt4\b", Peak(None, 8.1)),
)


def peak_flops(device: str, precision: str) -> float | None:
    """Peak FLOP/s of one device ("NVIDIA H200", "v5litepod-8"); None where it is not known.

    `precision`: "bfloat16" or "float32".
    """
    for pattern, peak in _PEAKS:
        if re.search(pattern, device.lower()):
            teraflops = peak.bfloat16 if precision == "bfloat16" else peak.float32
            return None if teraflops is None else teraflops * 1e12
    return None


def device_name(kind: str) -> str:
    """Name of the first device of a kind ("TPU", "GPU", "CPU"); the kind where it has none.

    A TPU does not tell TensorFlow its version; TPU_ACCELERATOR_TYPE does.
    """
    if kind == "TPU":
        return os.environ.get("TPU_ACCELERATOR_TYPE") or kind
    import tensorflow as tf

    devices = tf.config.list_physical_devices(kind)
    if kind != "GPU" or not devices:
        return kind
    return str(tf.config.experimental.get_device_details(devices[0]).get("device_name", kind))
