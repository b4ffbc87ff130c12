"""Programs of writers as text: words for each segment, taken from tables of all that a word can be."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, UInt8

from pfmc.errors import UsageError
from pfmc_backends.glass_voxels.volume import WrittenVolume

Words = UInt8[np.ndarray, "segments _"]


def words(texts: Iterable[str]) -> UInt8[np.ndarray, "words _"]:
    """Texts as bytes of one length, filled up with zeros, which ``joined`` drops."""
    table = np.array([text.encode("ascii") for text in texts])
    return table.view(np.uint8).reshape(len(table), -1)


def joined(*parts: str | Words) -> bytes:
    """The words of each segment one after the other, segment by segment; a text is the same for all."""
    count = max(len(part) for part in parts if not isinstance(part, str))
    columns = [np.broadcast_to(words([p]), (count, len(p))) if isinstance(p, str) else p for p in parts]
    text: Words = np.concatenate(columns, axis=1)
    return bytes(text[text != 0])


def centred(count: int, pitch: float) -> Float[np.ndarray, " edges"]:
    """Edges of ``count`` voxels along an axis, from its middle, in units of ``pitch``."""
    return (np.arange(count + 1) - count / 2) * pitch


def powers(volume: WrittenVolume, full_power: float) -> Float[np.ndarray, " levels"]:
    """Of each level, as a share of the most that the writer has.

    Raises:
        UsageError: if a level needs more.
    """
    if not 0 < volume.power.max() <= full_power:
        raise UsageError(f"a level needs {volume.power.max():g} W of {full_power:g} W", f"volume {volume.name}")
    return np.asarray(volume.power / full_power)
