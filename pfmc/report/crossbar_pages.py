"""What the page of a bundle shows of crossbars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from pfmc.backend import TileAsBuilt
from pfmc.bundle import Manifest, TileRecord
from pfmc.layout.layout import tile_extent
from pfmc.physics.crossbar import effective_matrix
from pfmc.registry import load_backend
from pfmc.report.pictures import Picture, floor_plan, mask_picture, matrix_picture
from pfmc.technology.kinds import crossbars
from pfmc.technology.quantities import Quantity
from pfmc.technology.schema import Technology

WEIGHTS_SHOWN: Final = (2, 8)  # rows and columns in the picture of the masks


def pictures(
    folder: Path, manifest: Manifest, technology: Technology, tiles: Sequence[TileRecord]
) -> Iterator[Picture]:
    """Masks, what the first tile computes, and where tiles stand."""
    first = tiles[0]
    yield Picture.of(f"Masks of the first weights of tile {first.name}", picture_of_masks(folder, manifest, first))
    for built in load_backend(manifest.backend).read(folder, technology, [first], lambda _done: None):
        if isinstance(built, TileAsBuilt):
            weights = effective_matrix(1.0 / built.resistance) / first.scale_siemens
            caption = f"Weights of tile {first.name} ({first.node}) as measured from the masks, in the model's units"
            yield Picture.of(caption, matrix_picture(weights, f"{first.name}: {first.node}"))
    left, bottom, width, height = tile_extent(technology)
    unit = technology.grid.database_unit.si
    corners = unit * np.array([[tile.x + left, tile.y + bottom] for tile in tiles])
    plan = floor_plan([tile.node for tile in tiles], corners, (width * unit, height * unit))
    yield Picture.of(f"{len(tiles)} tiles on the chip, coloured by layer of the model", plan)


def assumptions(technology: Technology) -> list[tuple[str, Quantity]]:
    """What the technology says of energy, time, area and currents."""
    sections = {"periphery": technology.periphery, "converters": technology.converters, "wires": technology.wires}
    return [
        (f"{section}.{key}", value)
        for section, model in sections.items()
        for key, value in model
        if isinstance(value, Quantity) and (section != "wires" or key.endswith("_limit"))
    ]


def picture_of_masks(folder: Path, manifest: Manifest, tile: TileRecord) -> bytes:
    """A few weights of a tile as they lie in the masks, as PNG.

    Raises:
        UsageError: if the bundle has no masks.
    """
    technology = crossbars(manifest.technology, "a picture of masks")
    window = _window(technology)
    shapes = load_backend(manifest.backend).shapes(folder, technology, tile, window)
    return mask_picture(technology, shapes, window)


def _window(technology: Technology) -> tuple[int, int, int, int]:
    grid, cell = technology.grid, technology.cell
    rows, columns = WEIGHTS_SHOWN
    pitch, head = grid.units(cell.strip_pitch), grid.units(cell.head_length)
    top = (rows - 1) * grid.units(cell.row_pitch) + grid.units(cell.body_length) + head
    return -pitch // 2, -head, (4 * columns - 1) * pitch // 2, top
