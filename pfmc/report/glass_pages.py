"""What the page of a bundle shows of glass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pfmc.backend import VolumeAsBuilt
from pfmc.bundle import Manifest, TileRecord
from pfmc.check.light import transfer_matrices
from pfmc.registry import load_backend
from pfmc.report.pictures import Picture, floor_plan, index_picture, matrix_picture
from pfmc.technology.glass import GlassTechnology
from pfmc.technology.quantities import Quantity


def pictures(
    folder: Path, manifest: Manifest, technology: GlassTechnology, tiles: Sequence[TileRecord]
) -> Iterator[Picture]:
    """The first volume's voxels, what light computes in them, and where volumes stand."""
    first = tiles[0]
    voxel, layer = technology.writing.voxel.si, technology.writing.layer.si
    for built in load_backend(manifest.backend).read(folder, technology, [first], lambda _done: None):
        if not isinstance(built, VolumeAsBuilt):
            continue
        cuts = index_picture(built.index_change, voxel, layer)
        yield Picture.of(f"Index change in tile {first.name}: one layer, and a cut along the light", cuts)
        for _, light in transfer_matrices([(first, built)], technology):
            weights = np.real(light) / first.scale_siemens
            caption = f"Weights of tile {first.name} ({first.node}) as light through the written voxels computes them"
            yield Picture.of(f"{caption}, in the model's units", matrix_picture(weights, f"{first.name}: {first.node}"))
    side = technology.tile.voxels.value * voxel
    corners = 1e-9 * np.array([[tile.x, tile.y] for tile in tiles]) - side / 2
    plan = floor_plan([tile.node for tile in tiles], corners, (side, side))
    yield Picture.of(f"{len(tiles)} volumes in the block, seen along the light, coloured by layer of the model", plan)


def assumptions(technology: GlassTechnology) -> list[tuple[str, Quantity]]:
    """What the technology says of energy and time."""
    sections = {"optics": technology.optics, "converters": technology.converters, "writing": technology.writing}
    return [
        (f"{section}.{key}", value)
        for section, model in sections.items()
        for key, value in model
        if isinstance(value, Quantity)
    ]
