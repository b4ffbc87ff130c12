"""Volumes as they are written, not as they are drawn: voxels in wrong places, with wrong changes of index.

The errors are those that a position-controlled laser writer makes: each layer as a whole is displaced across the light,
each voxel beside that; the index change of the volume, of each layer and of each voxel is off. What they cost grows as
the inverse of the design's gain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import scipy.special
from jaxtyping import Float

from pfmc.errors import UsageError
from pfmc.physics.volume import Volume

REACH: Final = 5.0  # standard deviations of the writing's blur that are kept around the voxels


@dataclass(frozen=True)
class WritingErrors:
    """Standard deviations.

    Args:
        layer_position: displacement of a layer along y, and along x, metres.
        voxel_position: of a voxel beside that, metres.
        index_scale: of the whole volume's index change, relative.
        index_drift: of a layer's beside that, relative.
        index_noise: of a written voxel's, in parts of the largest index change.
    """

    layer_position: float = 0.0
    voxel_position: float = 0.0
    index_scale: float = 0.0
    index_drift: float = 0.0
    index_noise: float = 0.0


def as_written(
    index_change: Float[np.ndarray, "layers y x"],
    volume: Volume,
    full: float,
    errors: WritingErrors,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "layers samples_y samples_x"], Volume]:
    """What one writer leaves of a volume, sample by sample, and the volume whose voxels are those samples.

    The writing's blur is part of the result. Layers are displaced exactly, voxels to first order in the displacement:
    what that leaves out is about (displacement / spread)² / 2. The same numbers are drawn whatever the errors are, so
    that volumes of one generator differ by the errors alone.

    Args:
        index_change: as drawn; zero where nothing is written.
        volume: as drawn, and how finely it is to be computed.
        full: the largest index change that can be written.
        errors: standard deviations.
        rng: of this volume.

    Raises:
        UsageError: if the writing is not blurred: a sharp edge cannot be displaced by less than a sample.
    """
    if not np.all(volume.spreads > 0):
        raise UsageError("the writing has no spread", "writing errors", "give the volume one")
    layers, rows, columns = index_change.shape
    whole, layer = rng.standard_normal(), rng.standard_normal((layers, 1, 1))
    noise = rng.standard_normal(index_change.shape)
    down, along = errors.layer_position * rng.standard_normal((2, layers))
    of_y, of_x = errors.voxel_position * rng.standard_normal((2, layers, rows, columns))
    change = index_change * (1.0 + errors.index_scale * whole) * (1.0 + errors.index_drift * layer)
    change = change + errors.index_noise * full * noise * (index_change != 0)
    written = []
    for drawn, spread, dy, dx, moved_y, moved_x in zip(change, volume.spreads, down, along, of_y, of_x, strict=True):
        (y, y_slope), (x, x_slope) = (_profiles(volume, spread, n, by) for n, by in ((rows, dy), (columns, dx)))
        written.append(y @ drawn @ x.T - y_slope @ (drawn * moved_y) @ x.T - y @ (drawn * moved_x) @ x_slope.T)
    result = np.stack(written)
    pixel = volume.grid.pixel
    return result, replace(volume, rows=result.shape[1], columns=result.shape[2], voxel=pixel, samples=1, spread=0.0)


def _profiles(
    volume: Volume, spread: float, count: int, displacement: float
) -> tuple[Float[np.ndarray, "samples count"], Float[np.ndarray, "samples count"]]:
    """Along one axis: how much of each displaced voxel there is at each sample, and the derivative by the position."""
    pixel = volume.grid.pixel
    size = count * volume.samples + 2 * math.ceil(REACH * volume.spreads.max() / pixel)
    position = pixel * (np.arange(size) - (size - 1) / 2)[:, None] - displacement
    edges = (position - volume.voxel * (np.arange(count + 1) - count / 2)) / spread
    below, slope = scipy.special.ndtr(edges), np.exp(-np.square(edges) / 2) / (math.sqrt(2 * math.pi) * spread)
    return below[:, :-1] - below[:, 1:], slope[:, :-1] - slope[:, 1:]
