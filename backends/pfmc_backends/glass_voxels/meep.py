"""Permittivity as HDF5 for Meep's ``epsilon_input_file``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pfmc_backends.glass_voxels.optional import library
from pfmc_backends.glass_voxels.volume import WrittenVolume


def write_meep(volume: WrittenVolume, path: Path) -> None:
    """Write ``path``: dataset ``eps`` = n², axes x, y, z, the only one, as Meep takes the first that it finds.

    Meep stretches the grid over its cell and interpolates between voxels (Meep manual, Python user interface,
    ``epsilon_input_file``): the cell must be as large as the volume, which the attribute ``size_um`` says.

    Raises:
        UsageError: if h5py is not installed.
        OSError: if it cannot be written.
    """
    permittivity = np.asarray((volume.index + volume.index_change) ** 2)
    layers, rows, columns = volume.levels.shape
    with library("h5py").File(path, "w", track_order=True) as file:
        data = file.create_dataset("eps", (columns, rows, layers), "<f8", track_times=False)
        data.attrs["size_um"] = np.array([columns, rows, layers]) * np.array(volume.pitch[::-1]) * 1e6
        for column, levels in enumerate(np.ascontiguousarray(volume.levels.T)):
            data[column] = permittivity[levels]
