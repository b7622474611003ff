"""Random numbers as a pure function of a seed and a place.

They are the same on any machine, in any order, in any process.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The constants of SplitMix64 (Steele, Lea, Flood 2014): the step between places, and the finalizer
# that mixes all bits.
STEP = 0x9E3779B97F4A7C15
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)
_MASK = (1 << 64) - 1


def mix(value: int) -> int:
    """The finalizer on one 64-bit number."""
    value &= _MASK
    value = ((value ^ value >> SHIFTS[0]) * MULTIPLIERS[0]) & _MASK
    value = ((value ^ value >> SHIFTS[1]) * MULTIPLIERS[1]) & _MASK
    return value ^ value >> SHIFTS[2]


def key_of(*words: int) -> int:
    """One 64-bit key from several whole numbers (a seed, what it is for, a place ...)."""
    key = 0
    for word in words:
        key = mix(key + STEP + mix(word + STEP))
    return key


def draws(key: int, start: int, count: int) -> NDArray[np.uint64]:
    """The numbers of a key at places start .. start + count - 1, uint64 [count]."""
    value = np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(STEP) + np.uint64(
        key
    )
    value = (value ^ value >> np.uint64(SHIFTS[0])) * np.uint64(MULTIPLIERS[0])
    value = (value ^ value >> np.uint64(SHIFTS[1])) * np.uint64(MULTIPLIERS[1])
    return value ^ value >> np.uint64(SHIFTS[2])
