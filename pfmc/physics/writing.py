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


FAULTLESS: Final = WritingErrors()


@dataclass(frozen=True, eq=False)
class Draw:
    """One writing of a volume: standard normal numbers, which the errors' sizes multiply.

    Attributes:
        whole, layer, noise: of the index change of the volume, of each layer and of each voxel.
        layer_moved, voxel_moved: of the displacements of layers and voxels along y and x.
    """

    whole: float
    layer: Float[np.ndarray, "layers 1 1"]
    noise: Float[np.ndarray, "layers y x"]
    layer_moved: Float[np.ndarray, "2 layers"]
    voxel_moved: Float[np.ndarray, "2 layers y x"]

    @classmethod
    def of(cls, shape: tuple[int, int, int], rng: np.random.Generator) -> Draw:
        """The same numbers whatever the errors are, so that volumes of one generator differ by the errors alone."""
        whole, layer = rng.standard_normal(), rng.standard_normal((shape[0], 1, 1))
        noise = rng.standard_normal(shape)
        return cls(whole, layer, noise, rng.standard_normal((2, shape[0])), rng.standard_normal((2, *shape)))

    def __neg__(self) -> Draw:
        """Every error with the other sign: as likely."""
        return Draw(-self.whole, -self.layer, -self.noise, -self.layer_moved, -self.voxel_moved)


def written_volume(volume: Volume) -> Volume:
    """The volume whose voxels are the samples that the writing of another reaches."""
    pixel = volume.grid.pixel
    rows, columns = (_reached(volume, count) for count in (volume.rows, volume.columns))
    return replace(volume, rows=rows, columns=columns, voxel=pixel, samples=1, spread=0.0)


def as_written(
    index_change: Float[np.ndarray, "layers y x"], volume: Volume, full: float, errors: WritingErrors, draw: Draw
) -> tuple[Float[np.ndarray, "layers samples_y samples_x"], Volume]:
    """What one writer leaves of a volume, sample by sample, and the volume whose voxels are those samples.

    The writing's blur is part of the result. Layers are displaced exactly, voxels to first order in the displacement:
    what that leaves out is about (displacement / spread)² / 2.

    Args:
        index_change: as drawn; zero where nothing is written.
        volume: as drawn, and how finely it is to be computed.
        full: the largest index change that can be written.
        errors: standard deviations.
        draw: what is off in this volume.

    Raises:
        UsageError: if the writing is not blurred: a sharp edge cannot be displaced by less than a sample.
    """
    change = index_change * _scales(errors, draw)
    change = change + errors.index_noise * full * draw.noise * (index_change != 0)
    moved_y, moved_x = errors.voxel_position * draw.voxel_moved
    (y, y_slope), (x, x_slope) = _all_profiles(volume, errors, draw)
    result = y @ change @ x.mT - y_slope @ (change * moved_y) @ x.mT - y @ (change * moved_x) @ x_slope.mT
    return result, written_volume(volume)


def as_written_adjoint(
    gradient: Float[np.ndarray, "layers samples_y samples_x"], volume: Volume, errors: WritingErrors, draw: Draw
) -> Float[np.ndarray, "layers y x"]:
    """Adjoint of ``as_written`` in the index changes as drawn, the noise of voxels apart, which is only added."""
    moved_y, moved_x = errors.voxel_position * draw.voxel_moved
    (y, y_slope), (x, x_slope) = _all_profiles(volume, errors, draw)
    back = y.mT @ gradient @ x - moved_y * (y_slope.mT @ gradient @ x) - moved_x * (y.mT @ gradient @ x_slope)
    return np.asarray(back * _scales(errors, draw))


def _scales(errors: WritingErrors, draw: Draw) -> Float[np.ndarray, "layers 1 1"]:
    """What the index changes of each layer are multiplied by."""
    return (1.0 + errors.index_scale * draw.whole) * (1.0 + errors.index_drift * draw.layer)


def _all_profiles(volume: Volume, errors: WritingErrors, draw: Draw) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of all displaced layers, along y and x: see ``_profiles``."""
    if not np.all(volume.spreads > 0):
        raise UsageError("the writing has no spread", "writing errors", "give the volume one")
    found = []
    for count, moved in zip((volume.rows, volume.columns), errors.layer_position * draw.layer_moved, strict=True):
        each = [_profiles(volume, spread, count, by) for spread, by in zip(volume.spreads, moved, strict=True)]
        found.append((np.stack([profile for profile, _ in each]), np.stack([slope for _, slope in each])))
    return found


def _profiles(
    volume: Volume, spread: float, count: int, displacement: float
) -> tuple[Float[np.ndarray, "samples count"], Float[np.ndarray, "samples count"]]:
    """Along one axis: how much of each displaced voxel there is at each sample, and the derivative by the position."""
    pixel = volume.grid.pixel
    size = _reached(volume, count)
    position = pixel * (np.arange(size) - (size - 1) / 2)[:, None] - displacement
    edges = (position - volume.voxel * (np.arange(count + 1) - count / 2)) / spread
    below, slope = scipy.special.ndtr(edges), np.exp(-np.square(edges) / 2) / (math.sqrt(2 * math.pi) * spread)
    return below[:, :-1] - below[:, 1:], slope[:, :-1] - slope[:, 1:]


def _reached(volume: Volume, count: int) -> int:
    """Samples along one axis that so many voxels and their blur reach."""
    return count * volume.samples + 2 * math.ceil(REACH * float(volume.spreads.max()) / volume.grid.pixel)
