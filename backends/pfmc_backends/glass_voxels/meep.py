"""Permittivity as HDF5 for Meep's ``epsilon_input_file``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from pfmc.physics.volume import Volume, sampled_index
from pfmc_backends.glass_voxels.optional import library
from pfmc_backends.glass_voxels.volume import WrittenVolume

# Light in what Meep interpolates is off by 3 % in a volume of the digits network (64 x 10 weights in fused silica); by
# half it would be with one sample for each voxel as drawn.
SAMPLES: Final = 4  # per voxel, across the light
SLICES: Final = 8  # per layer
REACH: Final = 4.0  # standard deviations of the blur that are kept around the voxels


def write_meep(volume: WrittenVolume, path: Path, block: Volume) -> None:
    """Write ``path``: dataset ``eps`` = n², axes x, y, z, the only one, as Meep takes the first that it finds.

    It is the glass as the writing leaves it, blurred, not the voxels as drawn. Meep stretches the grid over its cell
    and interpolates between samples (Meep manual, Python user interface, ``epsilon_input_file``): the cell must be as
    large as the grid, which the attribute ``size_um`` says.

    Args:
        block: the volume as its light is computed, which says how the writing blurs each layer.

    Raises:
        UsageError: if h5py is not installed, or the block has other voxels.
        OSError: if it cannot be written.
    """
    fine = replace(
        block,
        voxel=volume.voxel,
        layer=volume.layer,
        index=volume.index,
        samples=SAMPLES,
        padding=REACH * float(block.spreads.max()),
    )
    permittivity = (volume.index + sampled_index(volume.index_change[volume.levels], fine)) ** 2
    grid = fine.grid
    size = grid.columns * grid.pixel, grid.rows * grid.pixel, volume.layer * fine.layers
    with library("h5py").File(path, "w", track_order=True) as file:
        shape = (grid.columns, grid.rows, SLICES * fine.layers)
        data = file.create_dataset("eps", shape, "<f8", track_times=False)
        data.attrs["size_um"] = 1e6 * np.array(size)
        for column in range(grid.columns):
            data[column] = np.repeat(permittivity[:, :, column].T, SLICES, axis=1)
