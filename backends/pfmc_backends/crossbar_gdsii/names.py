"""The names of a file's structures, looked up by the thousand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from jaxtyping import Int32, Shaped, UInt64

FEW: Final = 16  # names that are looked up one by one
SLOT_BITS: Final = 17
MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: Knuth's multiplicative hashing


class NameTable:
    """Finds the indices of names: those of up to eight bytes as integers in a table, others one by one.

    Args:
        indices: by name.
    """

    def __init__(self, indices: Mapping[bytes, int]) -> None:
        self._indices = indices
        short = [name for name in indices if len(name) <= 8]
        keys = np.array(short, dtype="S8").view(np.uint64)
        self._keys = np.zeros(1 << SLOT_BITS, dtype=np.uint64)
        self._values = np.zeros(1 << SLOT_BITS, dtype=np.int32)
        slots = _slots(keys)
        self._keys[slots] = keys
        self._values[slots] = np.array([indices[name] for name in short], dtype=np.int32)

    def find(self, names: Shaped[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        """The indices of names (an array of bytes).

        Raises:
            KeyError: with the first name that is not there.
        """
        if names.dtype.itemsize > 8 or len(names) < FEW:
            return np.array([self._indices[name] for name in names.tolist()], dtype=np.int32)
        keys = names.astype("S8").view(np.uint64)
        slots = _slots(keys)
        found = self._values[slots]
        for other in np.flatnonzero(self._keys[slots] != keys).tolist():
            found[other] = self._indices[names[other]]
        return np.asarray(found)


def _slots(keys: UInt64[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
    slots: np.ndarray = (keys * MULTIPLIER) >> np.uint64(64 - SLOT_BITS)
    return np.asarray(slots, dtype=np.int32)
