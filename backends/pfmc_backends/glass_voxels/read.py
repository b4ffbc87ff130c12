"""Volumes read back from a bundle, as the glass would be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pfmc.backend import Progress, VolumeAsBuilt
from pfmc.bundle import TileRecord, read_details
from pfmc.errors import ArtifactError
from pfmc.sections import VolumeDetails
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
    shapes = declared_shapes(folder, technology)
    for tile in tiles:
        volume = open_volume(folder, tile.name, shapes)
        yield VolumeAsBuilt(
            name=tile.name,
            index_change=volume.index_change[volume.levels],
            found=volume.levels.size,
            complaints=tuple(_complaints(volume, technology, tile.name)),
        )
        progress(1)


def declared_shapes(folder: Path, technology: GlassTechnology) -> dict[str, store.Shape]:
    """Layers, rows and columns of every tile's volume, as the bundle's table of tiles says.

    Raises:
        ArtifactError: if there is no such table, or a volume is larger than the technology allows.
    """
    path = folder / "tiles.parquet"
    layers, most = int(technology.tile.layers_max.value), int(technology.tile.voxels_max.value)
    shapes: dict[str, store.Shape] = {}
    for row in read_details(path, VolumeDetails):
        if not (0 < row.layers <= layers and 0 < row.voxels <= most):
            what = f"{row.layers} layers of {row.voxels} voxels are more than {layers} of {most}, the technology's"
            raise ArtifactError(what, f"{path}, tile {row.name}")
        shapes[row.name] = (row.layers, row.voxels, row.voxels)
    return shapes


def open_volume(folder: Path, tile: str, shapes: Mapping[str, store.Shape]) -> WrittenVolume:
    """The volume of a tile, if it has the shape that is declared.

    Raises:
        ArtifactError: if a file is missing, cannot be understood or holds another shape.
    """
    return store.read(path_of(folder, tile), shapes[tile])


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
