"""A written volume: the level of every voxel, and what a level is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8


@dataclass(frozen=True, eq=False)
class WrittenVolume:
    """A volume as the writer gets it: layers along the light (z), rows along y, columns along x.

    Attributes:
        levels: of each voxel; level 0 is glass that is not written.
        index_change: Δn of each level, strictly rising or strictly falling from 0.
        power: writing power of each level, watts; 0 for level 0.
        index: of the glass that is not written.
        voxel, layer: width of a voxel across the light and thickness of a layer, metres.
        depth: from the surface to the first layer, metres.
    """

    name: str
    levels: UInt8[np.ndarray, "layers rows columns"]
    index_change: Float[np.ndarray, " levels"]
    power: Float[np.ndarray, " levels"]
    index: float
    voxel: float
    layer: float
    depth: float

    @property
    def pitch(self) -> tuple[float, float, float]:
        """Size of a voxel along z, y and x, metres."""
        return self.layer, self.voxel, self.voxel

    @property
    def across(self) -> float:
        """Its longer side across the light, metres."""
        return float(max(self.levels.shape[1:]) * self.voxel)

    def refractive_index(self) -> Float[np.ndarray, "layers rows columns"]:
        """Of every voxel."""
        return np.asarray((self.index + self.index_change)[self.levels])
