"""The path of the focus through a volume: what a writer's program draws and what its time is reckoned from.

Layers are written from the deepest up, so that light never passes what is written already. A layer is filled by passes
at one depth each, a pass by lines along x, to and fro, and a line by segments of one level.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt8

from pfmc.errors import UsageError
from pfmc_backends.glass_voxels.volume import WrittenVolume


@dataclass(frozen=True, eq=False)
class Segments:
    """What one pass writes, in the order of writing.

    Attributes:
        row: of voxels, that the segment lies in the middle of.
        start, stop: edges of voxels, counted along x; start > stop where the line runs backwards.
        level: never 0.
        opens: whether the light comes on at the segment's start, since it does not go on from the one before.
        begins: whether the segment is the first of its line.
    """

    row: Int[np.ndarray, " segments"]
    start: Int[np.ndarray, " segments"]
    stop: Int[np.ndarray, " segments"]
    level: UInt8[np.ndarray, " segments"]
    opens: Bool[np.ndarray, " segments"]
    begins: Bool[np.ndarray, " segments"]


def passes_per_layer(volume: WrittenVolume, scan_pitch: float) -> int:
    """How many passes fill a layer; ``scan_pitch`` is their distance along the light, metres.

    Raises:
        UsageError: if they do not.
    """
    count = round(volume.layer / scan_pitch) if scan_pitch > 0 else 0
    if count < 1 or abs(count * scan_pitch - volume.layer) > 1e-6 * volume.layer:
        raise UsageError(f"passes {scan_pitch:g} m apart do not fill a layer of {volume.layer:g} m", volume.name)
    return count


def passes(volume: WrittenVolume, scan_pitch: float) -> Iterator[tuple[float, Segments]]:
    """Depth of each pass, metres from the surface, and what it writes; the deepest first, empty layers left out.

    Raises:
        UsageError: if passes ``scan_pitch`` apart do not fill a layer.
    """
    return _passes(volume, scan_pitch, passes_per_layer(volume, scan_pitch))


def _passes(volume: WrittenVolume, scan_pitch: float, count: int) -> Iterator[tuple[float, Segments]]:
    for layer in reversed(range(len(volume.levels))):
        segments = segments_of(volume.levels[layer])
        if len(segments.row):
            for number in reversed(range(count)):
                yield volume.depth + layer * volume.layer + (number + 0.5) * scan_pitch, segments


def segments_of(levels: UInt8[np.ndarray, "rows columns"]) -> Segments:
    """Runs of voxels of one level; rows with odd numbers backwards."""
    rows, columns = levels.shape
    changes = np.ones((rows, columns), bool)
    changes[:, 1:] = levels[:, 1:] != levels[:, :-1]
    first = np.flatnonzero(changes)
    length = np.diff(first, append=rows * columns)
    written = levels.ravel()[first] != 0
    row, left = np.divmod(first[written], columns)
    right = left + length[written]
    level = levels.ravel()[first[written]]
    backwards = row % 2 == 1
    place = np.arange(len(row))
    ends = np.searchsorted(row, row, side="left") + np.searchsorted(row, row, side="right") - 1
    order = np.where(backwards, ends - place, place)
    start, stop = np.where(backwards, right, left)[order], np.where(backwards, left, right)[order]
    begins = np.diff(row, prepend=-1) != 0
    return Segments(row, start, stop, level[order], begins | (start != np.roll(stop, 1)), begins)
