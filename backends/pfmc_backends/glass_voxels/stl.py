"""The boundary of a volume of two levels as binary STL: two triangles for each face of what is written.

Faces are not merged: every edge meets its like, so that the surface is closed. Where two voxels touch along an edge
only, four faces meet in it. Lengths in um, as STL has no units.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Int, Shaped

from pfmc.errors import UsageError
from pfmc_backends.glass_voxels.volume import WrittenVolume

TRIANGLE: Final = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
SLAB: Final = 8  # layers that are drawn at once


def write_stl(volume: WrittenVolume, path: Path) -> None:
    """Write ``path``: x and y from the volume's axis, z from the surface; normals point out of what is written.

    Raises:
        UsageError: if the volume has more levels than two.
        OSError: if it cannot be written.
    """
    if len(volume.power) != 2:
        raise UsageError(
            f"STL holds a boundary, and the volume has {len(volume.power)} levels", f"volume {volume.name}", "use vti"
        )
    count = 0
    with path.open("wb") as file:
        file.write(bytes(84))
        for triangles in _triangles(volume):
            count += len(triangles)
            file.write(triangles.tobytes())
        file.seek(0)
        file.write(struct.pack("<80sI", b"boundary of the written glass, um", count))


def _triangles(volume: WrittenVolume) -> Iterator[Shaped[np.ndarray, " triangles"]]:
    """Of each slab of layers, of faces that look along each axis, down and up."""
    layers, rows, columns = volume.levels.shape
    scale = np.array(volume.pitch[::-1]) * 1e6
    origin = np.array([-columns / 2 * scale[0], -rows / 2 * scale[1], volume.depth * 1e6])
    for first in range(0, layers, SLAB):
        # One layer more on either side: what a slab's faces look at.
        slab = np.zeros((min(SLAB, layers - first) + 2, rows + 2, columns + 2), bool)
        low, high = max(first - 1, 0), min(first + SLAB + 1, layers)
        slab[low - first + 1 : high - first + 1, 1:-1, 1:-1] = volume.levels[low:high] != 0
        inside = slab[1:-1, 1:-1, 1:-1]
        for axis in range(3):
            for outward in (-1, 1):
                beside = np.roll(slab, -outward, axis)[1:-1, 1:-1, 1:-1]
                corner = np.argwhere(inside & ~beside)[:, ::-1] + (0, 0, first)
                yield _faces(corner, 2 - axis, outward, scale, origin)


def _faces(
    corner: Int[np.ndarray, "faces 3"],
    axis: int,
    outward: int,
    scale: Float[np.ndarray, " 3"],
    origin: Float[np.ndarray, " 3"],
) -> Shaped[np.ndarray, " triangles"]:
    """Two triangles for each voxel (x, y, z), counter-clockwise seen from where the normal points."""
    u, v = np.eye(3, dtype=int)[[(axis + 1) % 3, (axis + 2) % 3]]
    normal = np.eye(3, dtype=int)[axis]
    square = np.array([0 * u, u, u + v, v])[::outward] + max(outward, 0) * normal
    places = (corner[:, None, None, :] + square[[[0, 1, 2], [0, 2, 3]]]) * scale + origin
    triangles = np.zeros(2 * len(corner), TRIANGLE)
    triangles["normal"] = outward * normal
    triangles["corners"] = places.reshape(-1, 3, 3)
    return triangles
