"""Volumes read back from a bundle, as the glass would be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pfmc.backend import Progress, VolumeAsBuilt
from pfmc.bundle import TileRecord
from pfmc.technology.glass import GlassTechnology
from pfmc_backends.glass_voxels import store
from pfmc_backends.glass_voxels.emit import path_of
from pfmc_backends.glass_voxels.volume import WrittenVolume


def read(
    folder: Path, technology: GlassTechnology, tiles: Sequence[TileRecord], progress: Progress
) -> Iterator[VolumeAsBuilt]:
    """The volumes of some tiles, one at a time.

    Raises:
        ArtifactError: if a file is missing or cannot be understood.
    """
    for tile in tiles:
        volume = open_volume(folder, technology, tile.name)
        yield VolumeAsBuilt(
            name=tile.name,
            index_change=volume.index_change[volume.levels],
            found=volume.levels.size,
            complaints=tuple(_complaints(volume, technology, tile.name)),
        )
        progress(1)


def open_volume(folder: Path, technology: GlassTechnology, tile: str) -> WrittenVolume:
    """The volume of a tile, no larger than the technology allows.

    Raises:
        ArtifactError: if a file is missing or cannot be understood.
    """
    most, layers = int(technology.tile.voxels_max.value), int(technology.tile.layers_max.value)
    return store.read(path_of(folder, tile), (layers, most, most))


def _complaints(volume: WrittenVolume, technology: GlassTechnology, tile: str) -> Iterator[str]:
    """Where the file says other than the technology what a writer would do."""
    writing = technology.writing
    for what, found, expected in (
        ("index changes", volume.index_change, writing.level_changes()),
        ("powers", volume.power, writing.level_powers()),
        ("sizes", np.array(volume.pitch[:2]), np.array([writing.layer.si, writing.voxel.si])),
        ("depth", np.array([volume.depth]), np.array([writing.depth_min.si])),
        ("index", np.array([volume.index]), np.array([technology.light.index.si])),
    ):
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-9, atol=0):
            yield f"volume {tile}: its {what} are not the technology's"
