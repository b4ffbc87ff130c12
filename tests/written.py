"""Written volumes for the tests of the glass backend's files."""

from __future__ import annotations

import numpy as np
from pfmc_backends.glass_voxels.volume import WrittenVolume


def written_volume(shape: tuple[int, int, int], levels: int = 8, seed: int = 0, sign: int = 1) -> WrittenVolume:
    """Random voxels, no two axes and no two levels alike; the first row of each layer holds runs."""
    rng = np.random.default_rng(seed)
    voxels = rng.integers(0, levels, shape, dtype=np.uint8)
    voxels[:, 0] = np.sort(voxels[:, 0], axis=1)
    return WrittenVolume(
        name="fc1.0.3",
        levels=voxels,
        index_change=sign * 4e-3 * np.linspace(0, 1, levels) ** 1.5,
        power=np.concatenate([[0.0], np.linspace(0.12, 0.31, levels - 1)]),
        index=1.4525,
        voxel=0.9e-6,
        layer=6e-6,
        depth=170e-6,
    )
